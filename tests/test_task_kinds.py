"""Whole builds of tasks whose answers are sets of labels or numbers: gates, files, answers, and what is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from edgekd.errors import UsageError
from edgekd.recipe import load_recipe
from edgekd.references import importable
from edgekd.tasks.metrics import score
from edgekd.tasks.source import load
from edgekd.verify.published import verify_published
from tests.conftest import Built, Run, edgekd, overrides

pytestmark = pytest.mark.slow

SOURCES = """
import numpy as np
from sklearn.datasets import load_digits
from edgekd.tasks import Dataset, Split

bunch = load_digits()
images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
test = np.arange(len(images)) % 5 == 0


def dataset(labels, names):
    return Dataset(Split(images[~test], labels[~test]), Split(images[test], labels[test]), names)


def sets(task):
    digits = bunch.target
    labels = np.stack([digits % 2 == 0, digits > 4, np.isin(digits, [0, 6, 8, 9])], axis=1)
    return dataset(labels, ("even", "above four", "has a loop"))


def numbers(task):
    ink = bunch.images.sum(axis=(1, 2)) / 64 - 5
    tilt = (bunch.images[:, :, :4].sum(axis=(1, 2)) - bunch.images[:, :, 4:].sum(axis=(1, 2))) / 64
    return dataset(np.stack([ink, tilt], axis=1), ("ink", "tilt"))


def changed(task, of, split, row, value):
    data = {"sets": sets, "numbers": numbers}[of](task)
    labels = getattr(data, split).labels
    if value == "wide":
        labels = np.concatenate([labels, labels], axis=1)
    elif value == "empty":
        labels = labels * np.array([1, 0, 1])
    else:
        labels = labels.astype(type(float(value)) if of == "numbers" else np.int64)
        labels[row, 1] = float(value)
    parts = {"train": data.train, "test": data.test}
    parts[split] = Split(parts[split].inputs, labels)
    return Dataset(labels=data.labels, **parts)
"""
RECIPE = """
name = "{name}"
task = {{ kind = "image-{kind}", source = "kinds:{source}", validation = 0.1, augment = {{ views = 2, shift = 0.5 }} }}
teacher = {{ model = "resnet", args = {{ width = 16, blocks = [1] }}, train = {{ epochs = 8, learning_rate = 5e-3 }} }}
student = {{ model = "ds_cnn", args = {{ width = 24, blocks = 2 }} }}
distill = {{ weight = 0.5, train = {{ epochs = 16, learning_rate = 1e-2 }} }}
quantize = {{ train = {{ epochs = 2, learning_rate = 1e-3 }} }}
budgets = {{ below_teacher = 20, below_student = 3 }}
"""
TARGET = """
title = "{name}"
format = "{format}"
runtime = "{runtime}"
precision = "{precision}"
output = "{output}"
devices = []

[parity]
agreement = 0.95
{limit}

[coverage]
undelegated = 0
layout_changes = 0
"""
TARGETS = {
    "tflite": ("tflite", "ai-edge-litert", "int8", "logits", "max_lsb = 8"),
    "onnx": ("onnx", "onnxruntime", "int8", "logits", "max_lsb = 8"),
    "chances": ("onnx", "onnxruntime", "float32", "probabilities", "max_abs_diff = 1e-3"),
}


def written(folder: Path, name: str, kind: str, source: str) -> Path:
    (folder / "kinds.py").write_text(SOURCES)
    (folder / f"{name}.toml").write_text(RECIPE.format(name=name, kind=kind, source=source))
    for target, (format_name, runtime, precision, output, limit) in TARGETS.items():
        text = TARGET.format(
            name=target, format=format_name, runtime=runtime, precision=precision, output=output, limit=limit
        )
        (folder / f"{target}.toml").write_text(text)
    return folder


def build(folder: Path, name: str, *settings: str) -> Run:
    targets = [part for target in TARGETS for part in ("--target", f"{target}.toml")]
    return edgekd(folder, "build", "--recipe", f"{name}.toml", *targets, "--json", *overrides(settings))


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = written(tmp_path_factory.mktemp("sets"), "sets", "multi-label", "sets")
    run = build(folder, "sets")
    assert run.code == 0, run.stderr
    return Built(folder, run.document)


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = written(tmp_path_factory.mktemp("numbers"), "numbers", "regression", "numbers")
    run = build(folder, "numbers")
    assert run.code == 0, run.stderr
    return Built(folder, run.document)


def manifest(built: Built, target: str) -> dict[str, Any]:
    return json.loads((built.home / target / "manifest.json").read_text())


def pictures() -> np.ndarray:
    images = load_digits().images
    return np.round(images * (255 / 16)).astype(np.uint8)[np.arange(len(images)) % 5 == 0]


def from_tflite(built: Built) -> np.ndarray:
    """What the file answers to the raw test images, read as its manifest says, by the interpreter alone."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(built.home / "tflite" / "model.tflite"))
    interpreter.allocate_tensors()
    source, sink = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero_point = sink["quantization"]
    answers = []
    for image in pictures():
        interpreter.set_tensor(source["index"], (image.astype(np.int16) - 128).astype(np.int8)[None, ..., None])
        interpreter.invoke()
        answers.append((interpreter.get_tensor(sink["index"])[0].astype(np.float32) - zero_point) * scale)
    return np.stack(answers)


def from_onnx(built: Built, target: str) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(built.home / target / "model.onnx")
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: image[None, None]})[0] for image in pictures()])


@pytest.mark.parametrize(("kind", "metric"), [("sets", "macro_f1"), ("numbers", "r2")])
def test_every_target_is_green(kind: str, metric: str, request: pytest.FixtureRequest) -> None:
    built: Built = request.getfixturevalue(kind)
    for artifact in built.document["artifacts"]:
        assert artifact["metric"] == metric
        assert artifact["accuracy"]["exported"] > 0.85
        assert artifact["accuracy"]["student_float"] - artifact["accuracy"]["exported"] <= 0.03
        assert artifact["parity"]["agreement"] >= 0.95
        assert artifact["quantizers"]["exact"] == artifact["quantizers"]["learned"]
        assert artifact["metrics"]["exported"][metric] == pytest.approx(artifact["accuracy"]["exported"], abs=1e-6)
        checks = verify_published(built.folder / Path(artifact["path"]).parent)["checks"]
        assert checks["undelegated nodes"] == checks["transposes"] == 0


def test_an_app_reads_sets_of_labels_from_each_file(sets: Built) -> None:
    digits = load_digits().target[np.arange(1797) % 5 == 0]
    labels = np.stack([digits % 2 == 0, digits > 4, np.isin(digits, [0, 6, 8, 9])], axis=1)
    exported = {entry["target"]: entry["accuracy"]["exported"] for entry in sets.document["artifacts"]}
    for target, answers in (("tflite", from_tflite(sets)), ("onnx", from_onnx(sets, "onnx"))):
        assert score(answers, labels, "multi-label") == pytest.approx(exported[target], abs=1e-9)
        assert manifest(sets, target)["output"]["meaning"] == "logits; each label above 0 holds"
    chances = from_onnx(sets, "chances")
    assert 0 <= chances.min() < 0.1 < 0.9 < chances.max() <= 1
    assert chances.sum(axis=1).max() > 1.5
    assert score(chances - 0.5, labels, "multi-label") == pytest.approx(exported["chances"], abs=1e-9)
    assert manifest(sets, "chances")["output"]["meaning"] == "probabilities; each label above 0.5 holds"


def test_an_app_reads_numbers_from_each_file(numbers: Built) -> None:
    raw = load_digits().images[np.arange(1797) % 5 == 0]
    wanted = np.stack(
        [raw.sum(axis=(1, 2)) / 64 - 5, (raw[:, :, :4].sum(axis=(1, 2)) - raw[:, :, 4:].sum(axis=(1, 2))) / 64], axis=1
    )
    exported = {entry["target"]: entry["accuracy"]["exported"] for entry in numbers.document["artifacts"]}
    answers = {"tflite": from_tflite(numbers), **{name: from_onnx(numbers, name) for name in ("onnx", "chances")}}
    for target, found in answers.items():
        assert score(found, wanted, "regression") == pytest.approx(exported[target], abs=1e-6)
        assert manifest(numbers, target)["output"]["meaning"] == "numbers, in the order of the labels"
        assert manifest(numbers, target)["labels"] == ["ink", "tilt"]


def test_the_report_has_all_models_side_by_side(sets: Built, numbers: Built) -> None:
    for built, words in ((sets, ("has a loop", "all labels right")), (numbers, ("tilt", "root mean squared error"))):
        page = (built.home / "report.html").read_text()
        for word in (*words, "student, distilled", "quantized program", "exported file"):
            assert word in page
        document = json.loads((built.home / "report.json").read_text())
        assert document["data"]["validation_samples"] == 144
        assert set(document["artifacts"][0]["metrics"]) == {"teacher", "student_float", "quantized_program", "exported"}


WRONG = [
    ("multi-label", {"of": "sets", "split": "train", "row": 3, "value": "2"}, "sample 3 has label 2 for 'above four'"),
    ("multi-label", {"of": "sets", "split": "test", "row": 3, "value": "-1"}, "test sample 3 has no label"),
    ("multi-label", {"of": "sets", "split": "train", "row": 0, "value": "empty"}, "no training sample of 'above four'"),
    ("multi-label", {"of": "sets", "split": "test", "row": 0, "value": "wide"}, "labels of shape (360, 6)"),
    ("regression", {"of": "numbers", "split": "test", "row": 7, "value": "nan"}, "test sample 7 has no label"),
    ("regression", {"of": "numbers", "split": "train", "row": 7, "value": "inf"}, "sample 7 has label inf for 'tilt'"),
    ("regression", {"of": "numbers", "split": "train", "row": 0, "value": "wide"}, "labels of shape (1437, 4)"),
    ("classification", {"of": "sets", "split": "train", "row": 0, "value": "1"}, "give one integer label per sample"),
]


@pytest.mark.parametrize(("kind", "args", "words"), WRONG)
def test_wrong_labels_are_refused(kind: str, args: dict[str, Any], words: str, tmp_path: Path) -> None:
    source = load_recipe(str(written(tmp_path, "wrong", kind, "changed") / "wrong.toml"))
    task = dataclasses.replace(source.recipe.task, args=args)
    with importable(source.folder), pytest.raises(UsageError) as caught:
        load(task, 0)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_labels_end_the_plan_before_any_training(tmp_path: Path) -> None:
    folder = written(tmp_path, "wrong", "regression", "changed")
    wrong = 'task.args={ of = "numbers", split = "test", row = 7, value = "nan" }'
    run = edgekd(folder, "plan", "--recipe", "wrong.toml", "--target", "tflite.toml", "--set", wrong)
    assert run.code == 2
    assert run.stderr.splitlines()[-1].startswith("edgekd: data: test sample 7 has no label")


def test_a_kind_that_is_none_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'image-multi-label'"):
        load_recipe(str(written(tmp_path, "wrong", "multi-labels", "sets") / "wrong.toml"))
