"""The quantized program of students whose inputs are token ids."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.compress import QuantizedProgram, nncf_backend, quantize
from edgekd.compress.program import StoredEmbedding, StoredWeight, load_program, save_program
from edgekd.compress.quantizers import Quantizer
from edgekd.distill import Distiller, supervised
from edgekd.distill.examples import Examples
from edgekd.distill.trainer import fit
from edgekd.models.build import build, load_architecture, save_module
from edgekd.recipe import Training
from tests.export.small_text import ARCHITECTURES, VOCABULARY, ids, text_quantized, text_student

FAMILIES = tuple(ARCHITECTURES)


def train(quantized: nn.Module) -> None:
    examples = Examples(ids(64, seed=1)[None], torch.arange(64) % 3)
    fit(Distiller(quantized, None, supervised()), examples, Training(epochs=3, batch_size=16, learning_rate=1e-2), 0)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def program(family: str) -> QuantizedProgram:
    return quantize(text_student(family), ids(32, seed=1), train)


def answers(model: nn.Module, sentences: torch.Tensor | None = None) -> torch.Tensor:
    with torch.no_grad():
        return model(ids() if sentences is None else sentences)


def weights_of(program: QuantizedProgram) -> dict[str, int]:
    """Position in the table by the parameter's name."""
    return {entry.tensor: position for position, entry in enumerate(program.table) if entry.kind == "weight"}


def users_of(program: QuantizedProgram, position: int) -> list[Quantizer]:
    return [entry for entry in program.table if entry.kind == "activation" and position in entry.sources]


def test_every_linear_layer_is_quantized_on_both_sides(family: str, program: QuantizedProgram) -> None:
    layers = [name for name, one in text_student(family).named_modules() if isinstance(one, nn.Linear | nn.Conv2d)]
    weights = weights_of(program)
    assert len(layers) >= 3
    for name in layers:
        (output,) = users_of(program, weights[f"{name}.weight"])
        behind = [program.table[source] for source in output.sources]
        assert [entry.tensor for entry in behind if entry.kind == "weight"] == [f"{name}.weight"], name
        assert [entry for entry in behind if entry.kind == "activation"], name


def test_all_that_is_quantized_are_layers_and_the_table_of_words(family: str, program: QuantizedProgram) -> None:
    modules = text_student(family).named_modules()
    layers = {f"{name}.weight" for name, one in modules if isinstance(one, nn.Linear | nn.Conv2d | nn.Embedding)}
    assert weights_of(program).keys() == layers


def test_nothing_of_one_dimension_is_quantized(program: QuantizedProgram) -> None:
    for name in weights_of(program):
        assert program.model.get_parameter(name).ndim > 1, name


def test_the_table_of_words_has_one_scale(family: str) -> None:
    untrained = text_quantized(family)
    entry = untrained.table[weights_of(untrained)["tokens.weight"]]
    largest = text_student(family).tokens.weight.abs().max().item()
    assert (entry.axis, entry.zero_point, entry.low, entry.high) == (None, (0,), -127, 127)
    assert entry.scale == (pytest.approx(largest / 127, rel=1e-6),)


def test_every_other_weight_has_a_scale_for_each_output(family: str, program: QuantizedProgram) -> None:
    for name, position in weights_of(program).items():
        if name != "tokens.weight":
            assert program.table[position].axis == 0
            assert len(program.table[position].scale) == text_student(family).get_parameter(name).shape[0]


def test_training_reaches_the_scale_of_every_quantizer(family: str, program: QuantizedProgram) -> None:
    pairs = list(zip(text_quantized(family).table, program.table, strict=True))
    assert [(old.kind, old.tensor) for old, _ in pairs] == [(new.kind, new.tensor) for _, new in pairs]
    assert [new.tensor for old, new in pairs if old.scale == new.scale] == []


def test_all_frozen_forms_answer_bit_for_bit_alike(program: QuantizedProgram) -> None:
    one, other = answers(program.frozen(stored=True)), answers(program.frozen(stored=False))
    assert torch.equal(one, other)
    assert torch.equal(one, answers(program.frozen(stored=True, unsigned=True)))
    assert one.unique().numel() > 20


def test_a_frozen_program_answers_like_the_trained_model(program: QuantizedProgram) -> None:
    trained, frozen = answers(program.model), answers(program.frozen(stored=True))
    difference = (frozen - trained).abs() / program.output_scale
    assert difference.max() <= 8
    assert difference.mean() < 0.5
    assert (trained.argmax(1) == frozen.argmax(1)).float().mean() >= 0.99


@pytest.mark.parametrize("stored", [False, True])
def test_weights_only_is_the_trained_model_without_its_activation_quantizers(
    family: str, program: QuantizedProgram, stored: bool
) -> None:
    found = answers(program.weights_only())
    assert torch.equal(found, answers(switched_off(family, program)))
    torch.testing.assert_close(answers(program.frozen(stored, activations=False)), found, rtol=0, atol=1e-5)
    assert not torch.equal(found, answers(program.model))


def switched_off(family: str, program: QuantizedProgram) -> nn.Module:
    """The trained model with its activation quantizers in their places and without effect."""
    restored = nncf_backend.restore(build(ARCHITECTURES[family], "student"), nncf_backend.get_config(program.model))
    restored.load_state_dict(program.model.state_dict())
    for placed in nncf_backend.quantizers_of(restored, program.example):
        if not placed.is_weight:
            placed.quantizer.forward = nn.Identity().forward
    return restored.eval()


def test_int8_weights_alone_change_little(family: str) -> None:
    untrained = text_quantized(family)
    expected, found = answers(text_student(family)), answers(untrained.weights_only())
    assert (found - expected).abs().mean() < 0.02 * (expected.max() - expected.min())
    assert (found.argmax(1) == expected.argmax(1)).float().mean() > 0.95


def test_stored_words_are_int8_rows(program: QuantizedProgram) -> None:
    frozen = program.frozen(stored=True)
    (rows,) = (module for module in frozen.modules() if isinstance(module, StoredEmbedding))
    entry = program.table[weights_of(program)["tokens.weight"]]
    table = program.model.get_parameter("tokens.weight").detach()
    assert rows.form.stored.dtype == torch.int8
    assert rows.form.stored.shape == table.shape
    expected = (table / np.float32(entry.scale[0])).round().clamp(-127, 127)
    assert torch.equal(rows.form.stored, expected.to(torch.int8))
    assert sum(isinstance(module, StoredWeight) for module in frozen.modules()) == len(weights_of(program))


def test_freezing_leaves_the_program_as_it_was(program: QuantizedProgram) -> None:
    before = answers(program.model)
    for stored in (True, False):
        program.frozen(stored)
    program.weights_only()
    assert torch.equal(answers(program.model), before)


def test_a_saved_program_comes_back_bit_for_bit(family: str, program: QuantizedProgram, tmp_path: Path) -> None:
    save_module(text_student(family), ARCHITECTURES[family], tmp_path)
    folder = tmp_path / "program"
    folder.mkdir()
    save_program(program, tmp_path / "architecture.json", folder)
    restored = load_program(folder, load_architecture(folder))
    assert restored.table == program.table
    assert torch.equal(answers(restored.model), answers(program.model))
    assert torch.equal(answers(restored.frozen(stored=True)), answers(program.frozen(stored=True)))
    assert torch.equal(answers(restored.weights_only()), answers(program.weights_only()))


class Tied(nn.Module):
    """The table of words is the weight of the last layer, too."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.linear = nn.Embedding(VOCABULARY, 8), nn.Linear(8, VOCABULARY)
        self.linear.weight = self.table.weight

    def forward(self, sentences: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.linear(self.table(sentences).mean(1))
        return outputs


class ReadTwice(nn.Module):
    """Rows are looked up at two places and quantized at each."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.conv, self.linear = nn.Embedding(VOCABULARY, 8), nn.Conv1d(8, 8, 2), nn.Linear(8, 3)

    def forward(self, sentences: torch.Tensor) -> torch.Tensor:
        features = torch.relu(self.conv(self.table(sentences).transpose(1, 2))).mean(2)
        outputs: torch.Tensor = self.linear(features + self.table(sentences.flip(1))[:, 0])
        return outputs


class InLists(nn.Module):
    """Two tables, each in a list, whose places NNCF names without the list."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(VOCABULARY, 8) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv1d(8, 8, 2) for _ in range(2))
        self.linear = nn.Linear(8, 3)

    def forward(self, sentences: torch.Tensor) -> torch.Tensor:
        pairs = zip(self.tables, self.convs, strict=True)
        found = [torch.relu(conv(table(sentences).transpose(1, 2))).mean(2) for table, conv in pairs]
        outputs: torch.Tensor = self.linear(found[0] + found[1])
        return outputs


@pytest.mark.parametrize("make", [Tied, ReadTwice, InLists])
def test_tables_that_are_shared_or_many_are_frozen_as_trained(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    program = quantize(make().eval(), ids(64, seed=1))
    trained = answers(program.model)
    for stored in (True, False):
        frozen = answers(program.frozen(stored))
        assert (frozen - trained).abs().max() < 1.1 * program.output_scale
        assert (frozen != trained).float().mean() < 0.05 or torch.allclose(frozen, trained, atol=1e-5)
        weights = answers(program.frozen(stored, activations=False))
        torch.testing.assert_close(weights, answers(program.weights_only()), rtol=0, atol=1e-5)
