"""Folders that transformers saved, as students: what they answer, how they are kept, what is refused."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from edgekd.compress import QuantizedProgram, quantize
from edgekd.compress.shrink import shrink
from edgekd.errors import UsageError
from edgekd.export.card import Card, output_of
from edgekd.export.formats import export_program
from edgekd.keys import Fingerprints
from edgekd.models.build import Architecture, build, example_input, load_module, save_module
from edgekd.models.cost import macs
from edgekd.models.transformers_folder import load_folder, read_folder
from edgekd.plan import make_plan
from edgekd.readers import read_graph
from edgekd.readers.graph import FileGraph, layout_changes
from edgekd.recipe import Factorize, Prune, Training, load_recipe, resolve_paths
from edgekd.resources import BUILT_IN_RECIPES
from edgekd.runtimes import open_session
from edgekd.target import Format
from edgekd.verify.coverage import asked_transposes, stray_transposes
from edgekd.verify.readback import read_back
from tests.distill.teachers.small import LABELS, SENTENCES, data_of
from tests.models.folders import LENGTH, SHAPES, TEXTS, task_tokenizer, write

PADDING = 0
FITTING = ("bert", "electra", "distilbert", *SHAPES)


def architecture(folder: Path, kind: str, classes: int = 3, **changes: Any) -> Architecture:
    text = kind in TEXTS
    wanted = {
        "input_shape": (LENGTH,) if text else SHAPES.get(kind),
        "vocabulary": data_of(SENTENCES).facts["vocabulary"] if text else None,
        "tokenizer": task_tokenizer() if text else None,
    }
    return read_folder(folder, classes=classes, **{**wanted, **changes})


def student(folder: Path, kind: str, **changes: Any) -> tuple[nn.Module, Architecture]:
    made = architecture(folder, kind, **changes)
    module = build(made, "student")
    load_folder(module, folder, made, LABELS)
    return module.eval(), made


def inputs_of(made: Architecture, count: int = 4) -> torch.Tensor:
    """Numbers, or sentences that end in padding."""
    random = torch.Generator().manual_seed(5)
    if made.vocabulary is None:
        return torch.randn(count, *made.input_shape, generator=random)
    ids = torch.randint(1, made.vocabulary, (count, *made.input_shape), generator=random, dtype=torch.int32)
    ids[1:, 5:] = PADDING
    return ids


@torch.no_grad()
def answers(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    outputs: torch.Tensor = module(inputs)
    return outputs


def refusal(folder: Path, kind: str, **changes: Any) -> str:
    with pytest.raises(UsageError) as error:
        student(folder, kind, **changes)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind", FITTING)
def test_it_answers_as_transformers_does(kind: str, tmp_path: Path) -> None:
    model = write(tmp_path, kind)
    module, made = student(tmp_path, kind)
    inputs = inputs_of(made)
    with torch.no_grad():
        if kind in TEXTS:
            wanted = model(inputs, attention_mask=(inputs != PADDING).long()).logits
        else:
            wanted = model(inputs[:, 0] if kind == "ast" else inputs).logits
    torch.testing.assert_close(answers(module, inputs), wanted, rtol=1e-4, atol=1e-5)
    assert wanted.std(dim=0).min() > 0.001


def test_layers_can_be_factorized(tmp_path: Path) -> None:
    write(tmp_path, "vit")
    module, made = student(tmp_path, "vit")
    compression = Factorize(kind="factorize", rank=0.3, train=Training(epochs=1))
    smaller, edited = shrink(compression, module, made, lambda model: None)
    again = build(edited, "student")
    again.load_state_dict(smaller.state_dict())
    assert torch.equal(answers(again, inputs_of(made)), answers(smaller.eval(), inputs_of(made)))
    assert "model.vit.embeddings.patch_embeddings.layer" in edited.edits[0]["layers"]


def test_they_are_loaded_in_a_fresh_process_without_their_folders(tmp_path: Path) -> None:
    wanted = {}
    for kind in ("bert", "vit", "ast"):
        write(tmp_path / "folder", kind)
        module, made = student(tmp_path / "folder", kind)
        kept = tmp_path / kind
        kept.mkdir()
        save_module(module, made, kept)
        assert str(tmp_path) not in (kept / "architecture.json").read_text()
        shutil.rmtree(tmp_path / "folder")
        torch.save(inputs_of(made), kept / "inputs.pt")
        wanted[kind] = answers(module, inputs_of(made)).tolist()
    code = (
        "import json, sys, torch; from pathlib import Path; from edgekd.models.build import load_module;"
        "print(json.dumps({name: load_module(Path(name), 'student')[0](torch.load(f'{name}/inputs.pt')).tolist()"
        " for name in sys.argv[1:]}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *wanted],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert json.loads(done.stdout.splitlines()[-1]) == wanted


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_padding_does_not_change_the_answer(kind: str, tmp_path: Path) -> None:
    write(tmp_path, kind)
    short, made = student(tmp_path, kind)
    long, _ = student(tmp_path, kind, input_shape=(12,))
    sentences = inputs_of(made)
    padded = torch.cat([sentences, torch.full((4, 4), PADDING, dtype=torch.int32)], dim=1)
    torch.testing.assert_close(answers(long, padded), answers(short, sentences), rtol=0, atol=1e-5)
    padded[:, -1] = 7
    assert not torch.allclose(answers(long, padded), answers(short, sentences), atol=1e-3)


def test_a_sentence_of_padding_alone_has_a_finite_answer(tmp_path: Path) -> None:
    write(tmp_path, "bert")
    module, made = student(tmp_path, "bert")
    assert torch.isfinite(answers(module, torch.full_like(inputs_of(made), PADDING))).all()


@pytest.mark.parametrize(("kind", "head"), [("bert", "classifier"), ("vit", "classifier"), ("resnet", "classifier.1")])
def test_a_head_for_other_classes_starts_anew(kind: str, head: str, tmp_path: Path) -> None:
    kept = write(tmp_path, kind, classes=5).state_dict()
    made = architecture(tmp_path, kind, classes=2)
    module = build(made, "student")
    assert load_folder(module, tmp_path, made, LABELS) == (f"{head}.bias", f"{head}.weight")
    assert answers(module, inputs_of(made)).shape == (4, 2)
    state = module.state_dict()
    same = [name for name in kept if f"model.{name}" in state and torch.equal(state[f"model.{name}"], kept[name])]
    assert len(same) >= 5
    assert state[f"model.{head}.weight"].shape[0] == 2


def test_a_head_for_these_classes_is_kept(tmp_path: Path) -> None:
    write(tmp_path, "vit")
    made = architecture(tmp_path, "vit")
    assert load_folder(build(made, "student"), tmp_path, made, LABELS) == ()


@pytest.mark.parametrize("kind", ["bert", "ast", "resnet"])
def test_classes_are_put_in_the_order_of_the_data(kind: str, tmp_path: Path) -> None:
    order = [2, 0, 1]
    write(tmp_path, kind, id2label={place: LABELS[at] for place, at in enumerate(order)})
    module, made = student(tmp_path, kind)
    plain = build(made, "student")
    load_folder(plain, tmp_path, made, ("other", "names", "altogether"))
    inputs = inputs_of(made)
    torch.testing.assert_close(answers(module, inputs)[:, order], answers(plain.eval(), inputs), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["bert", "vit"])
def test_heads_and_widths_can_be_pruned(kind: str, tmp_path: Path) -> None:
    write(tmp_path, kind, num_attention_heads=4)
    module, made = student(tmp_path, kind)
    smaller, edited = shrink(Prune(kind="prune", macs=0.5, train=Training(epochs=1)), module, made, lambda model: None)
    assert macs(smaller, example_input(made)) <= 0.5 * macs(module, example_input(made))
    changed = edited.edits[0]["attributes"]
    assert [path for path, values in changed.items() if {"head_dim", "attention_head_size"} & values.keys()]
    (tmp_path / "kept").mkdir()
    save_module(smaller, edited, tmp_path / "kept")
    again, _ = load_module(tmp_path / "kept", "student")
    assert torch.equal(answers(again, inputs_of(made)), answers(smaller.eval(), inputs_of(made)))


@pytest.mark.parametrize("kind", ["bert", "vit"])
def test_all_layers_become_integers(kind: str, tmp_path: Path) -> None:
    """What positions are added to is one scale for the addition, and the mask is exact."""
    write(tmp_path, kind)
    module, made = student(tmp_path, kind)
    program = quantize(module, inputs_of(made, 16))
    assert program.float_layers == ()
    weights = {entry.tensor: entry for entry in program.table if entry.kind == "weight"}
    linear = [f"{name}.weight" for name, one in module.named_modules() if isinstance(one, nn.Linear)]
    assert set(linear) <= weights.keys()
    if kind == "vit":
        assert weights["model.vit.embeddings.rows"].axis is None
    else:
        assert weights["mask.weight"].scale[0] * 127 == pytest.approx(1e4)
    one, other = (answers(program.frozen(stored), inputs_of(made)) for stored in (True, False))
    assert torch.equal(one, other)
    assert (one - answers(program.model, inputs_of(made))).abs().max() <= 2 * program.output_scale


def answered_as_integers(
    module: nn.Module, made: Architecture, name: Format, folder: Path
) -> tuple[QuantizedProgram, FileGraph]:
    """Quantize and write a student: scales are exact, no operation is left behind, the answers are those of torch."""
    *_, head = (layer for layer in module.modules() if isinstance(layer, nn.Linear))
    head.bias.data -= answers(module, inputs_of(made, 16)).mean(dim=0)
    program = quantize(module, inputs_of(made, 16))
    card = Card("student", LABELS, output_of("logits", "classification"), {"input": "features"}, "classification")
    file = export_program(program, name, "int8", folder, card)
    graph = read_graph(file)
    found = read_back(program.table, graph)
    assert (found.problems, found.exact) == ((), len(program.table))
    session = open_session(file)
    assert session.placement().undelegated == ()
    assert stray_transposes(graph, asked_transposes(program.frozen(stored=False), program.example)) == []
    inputs = inputs_of(made, 16)
    wanted = answers(program.model, inputs).numpy()
    given = session.decode(session.run(session.encode(inputs.numpy())))
    assert (given.argmax(1) == wanted.argmax(1)).all()
    assert len(set(given.argmax(1))) > 1
    assert np.abs(given - wanted).max() <= 8 * program.output_scale
    return program, graph


INTEGERS: tuple[tuple[str, Format], ...] = (
    *(("vit", name) for name in ("onnx", "tflite", "openvino")), ("bert", "openvino"), ("resnet", "onnx"),
    ("ast", "onnx"), ("ast", "tflite"),
)  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), INTEGERS)
def test_an_integer_file_keeps_every_scale_and_leaves_no_operation_behind(
    kind: str, name: Format, tmp_path: Path
) -> None:
    """Among them those of padded, joined and cut numbers, which are written down again behind these; none is between
    the mean of two tokens and the normalisation behind it.
    """
    write(tmp_path, kind)
    answered_as_integers(*student(tmp_path, kind), name, tmp_path)


@pytest.mark.parametrize("name", ["onnx", "tflite"])
def test_images_are_padded_the_way_they_lie(name: Format, tmp_path: Path) -> None:
    """Of a MobileNetV2 its first layers, so that no rounding grows on the way. Each pads by itself, more at the end,
    those of 1x1 by nothing. A convolution of a .tflite file does it on the way.
    """
    assert write(tmp_path, "mobilenet", depth_multiplier=0.01).config.tf_padding
    module, made = student(tmp_path, "mobilenet")
    layers = module.get_submodule("model.mobilenet_v2.layer")
    assert isinstance(layers, nn.ModuleList)
    del layers[4:]
    program, graph = answered_as_integers(module, made, name, tmp_path)
    assert layout_changes(graph) == []
    counts = Counter(node.op for node in graph.nodes)
    if name == "tflite":
        assert counts.keys() == {"CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "MEAN", "FULLY_CONNECTED"}
    else:
        wide = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)]
        activations = [entry for entry in program.table if entry.kind == "activation"]
        assert counts["Pad"] == len(wide) == 6
        assert counts["QuantizeLinear"] == len(activations) + len(wide)


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "waves": ("wav2vec", {"input_shape": (1, 17, 8), "vocabulary": None, "tokenizer": None}, "gets images, or log-mel"),
    "text for images": ("vit", {"input_shape": (8,), "vocabulary": 10}, "takes 'pixel_values'"),
    "images for text": ("bert", {"input_shape": (2, 6, 6), "vocabulary": None}, "takes 'input_ids'"),
    "size": ("vit", {"input_shape": (2, 8, 8)}, "takes inputs of shape (2, 6, 6), the task has (2, 8, 8)"),
    "channels": ("resnet", {"input_shape": (1, 16, 16)}, "takes inputs of shape (2, 16, 16), the task has (1, 16, 16)"),
    "frames": ("ast", {"input_shape": (1, 20, 8)}, "takes inputs of shape (1, 17, 8), the task has (1, 20, 8)"),
    "length": ("bert", {"input_shape": (20,)}, "takes inputs of shape (16,), the task has (20,)"),
    "vocabulary": ("bert", {"vocabulary": 60}, "knows 50 token ids, the task has 60"),
    "counted words": ("bert", {"tokenizer": None}, "set task.tokenizer to that file"),
    "causal": ("gpt2", {}, "attention of a kind that cannot be exported"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_model_that_does_not_fit_is_refused(case: str, tmp_path: Path) -> None:
    kind, changes, words = WRONG[case]
    write(tmp_path, kind)
    assert words in refusal(tmp_path, kind, **changes)


@pytest.mark.parametrize("damage", ["none", "config", "cut", "missing", "pickle", "headless", "nan", "tokenizer"])
def test_a_damaged_folder_is_refused_by_its_name(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    if damage != "none":
        model = write(folder, "bert")
        weights = folder / "model.safetensors"
        state = load_file(weights)
        if damage == "config":
            (folder / "config.json").write_text("{")
        elif damage == "cut":
            weights.write_bytes(weights.read_bytes()[:500])
        elif damage == "missing":
            del state["bert.pooler.dense.bias"]
            save_file(state, weights, {"format": "pt"})
        elif damage == "pickle":
            weights.unlink()
            torch.save(model.state_dict(), folder / "pytorch_model.bin")
        elif damage == "headless":
            model.bert.save_pretrained(folder)
        elif damage == "nan":
            state["classifier.bias"][0] = float("nan")
            save_file(state, weights, {"format": "pt"})
        else:
            (folder / "tokenizer.json").write_text("{}")
    words = {
        "missing": "no weights for",
        "headless": "of BertModel, not of a classifier",
        "nan": "NaN",
        "pickle": "open",
    }
    message = refusal(folder, "bert")
    assert str(folder) in message
    assert words.get(damage, "") in message


def recipe_of(folder: Path, student_table: str) -> Path:
    head, _, tail = (BUILT_IN_RECIPES / "digits.toml").read_text().partition("[student]")
    file = folder / "edgekd.toml"
    file.write_text(f"{head}[student]\n{student_table}\n{tail[tail.index('[distill]') :]}")
    return file


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('model = "ds_cnn"\nfolder = "vit"', "leave out 'model'"),
        ('weights = "a.pt"\nfolder = "vit"', "leave out 'model'"),
        ("", "'student.model' is missing; add it, or 'folder'"),
    ],
)
def test_a_student_is_a_model_or_a_folder(table: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        load_recipe(str(recipe_of(tmp_path, table)))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_the_folder_lies_beside_the_recipe_and_is_part_of_the_key(tmp_path: Path) -> None:
    write(tmp_path / "vit", "vit", num_channels=1, image_size=8)
    recipe = resolve_paths(load_recipe(str(recipe_of(tmp_path, 'folder = "vit"'))))
    assert recipe.student.folder == tmp_path / "vit"

    def keys() -> dict[str, str]:
        return dict(make_plan(recipe, ["onnx-arm"], Fingerprints(tmp_path / "memory.json"), ["local"]).keys)

    before = keys()
    write(tmp_path / "vit", "vit", num_channels=1, image_size=8, hidden_act="relu")
    changed = {name for name, key in keys().items() if key != before[name]}
    assert {"student", "program", "preflight[objective]", "preflight[onnx-arm]"} <= changed
    assert not {"data", "teacher", "outputs"} & changed
    steps = make_plan(recipe, ["onnx-arm"], Fingerprints(tmp_path / "memory.json"), ["local"]).by_name
    assert all("transformers" in steps[name].packages for name in ("student", "program", "verify[onnx-arm]"))
    assert "transformers" not in steps["data"].packages
