import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.compress import QuantizedProgram, nncf_backend, quantize
from edgekd.compress.program import load_program, save_program
from edgekd.compress.quantizers import read_table, write_table
from edgekd.distill import Distiller, supervised
from edgekd.distill.examples import Examples
from edgekd.distill.trainer import fit
from edgekd.models.build import Architecture, load_architecture, save_module
from edgekd.recipe import Training
from tests.compress.students import lively, noise

ARCHITECTURE = Architecture("ds_cnn", {"width": 8, "blocks": 2}, (2, 8, 8), 4)


def inputs(count: int = 64, seed: int = 0) -> torch.Tensor:
    return noise(ARCHITECTURE.input_shape, count, seed)


def student() -> nn.Module:
    return lively(ARCHITECTURE)


def train(quantized: nn.Module) -> None:
    examples = Examples(inputs()[None], torch.arange(64) % 4)
    fit(Distiller(quantized, None, supervised()), examples, Training(epochs=3, batch_size=16, learning_rate=1e-2), 0)


def answers(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(inputs(1000, seed=1))


@pytest.fixture(scope="module")
def program() -> QuantizedProgram:
    return quantize(student(), inputs(), train)


@pytest.fixture(scope="module")
def narrowed() -> QuantizedProgram:
    """Weight scales that have become too small for the largest weights, as training may make them; the output's range
    is that of the smaller numbers which then come out.
    """

    def narrow(quantized: nn.Module) -> None:
        for placed in nncf_backend.quantizers_of(quantized, inputs(1)):
            if placed.is_weight:
                placed.quantizer.scale.data *= 0.7

    return quantize(student(), inputs(), narrow, output_range=(-0.7, 0.5))


@pytest.fixture(scope="module")
def four() -> QuantizedProgram:
    """Trained with weights of 4 bits."""
    return quantize(student(), inputs(), train, weight_bits=4)


def test_the_table_has_one_entry_a_quantizer(program: QuantizedProgram) -> None:
    in_model = [name for name, _ in nncf_backend.hooks_of(program.model).named_hooks()]
    assert len(program.table) == len(in_model)
    assert len({(entry.kind, entry.tensor) for entry in program.table}) == len(program.table)


def test_every_weight_is_quantized_by_its_parameters_name(program: QuantizedProgram) -> None:
    model = student()
    layers = {f"{name}.weight": one for name, one in model.named_modules() if isinstance(one, nn.Conv2d | nn.Linear)}
    weights = {entry.tensor: entry for entry in program.table if entry.kind == "weight"}
    assert weights.keys() == layers.keys()
    for name, layer in layers.items():
        assert len(weights[name].scale) == layer.weight.shape[0]
        assert weights[name].axis == 0


def test_weights_are_symmetric_over_127_steps(program: QuantizedProgram) -> None:
    for entry in program.table:
        if entry.kind == "weight":
            assert set(entry.zero_point) == {0}
            assert (entry.low, entry.high) == (-127, 127), entry.tensor


def test_weights_of_4_bits_have_7_steps_on_both_sides(four: QuantizedProgram) -> None:
    for entry in four.table:
        assert (entry.low, entry.high, entry.bits) == ((-7, 7, 4) if entry.kind == "weight" else (-128, 127, 8))
    stored = [one for name, one in four.frozen(stored=True).named_buffers() if name.endswith("stored")]
    assert len(stored) == 6
    assert all(one.dtype == torch.int8 and one.abs().max() == 7 for one in stored)


def test_no_stored_weight_is_minus_128(narrowed: QuantizedProgram) -> None:
    stored = {name: one for name, one in narrowed.frozen(stored=True).named_buffers() if name.endswith("stored")}
    assert len(stored) == 6
    assert {name: int(one.min()) for name, one in stored.items()} == dict.fromkeys(stored, -127)


def test_activations_are_int8_one_scale_each(program: QuantizedProgram) -> None:
    activations = [entry for entry in program.table if entry.kind == "activation"]
    assert activations[0] == program.table[0]
    assert activations[-1] == program.table[-1]
    for entry in activations:
        assert (entry.low, entry.high, entry.dtype) == (-128, 127, "int8")
        assert len(entry.scale) == len(entry.zero_point) == 1
        assert -128 <= entry.zero_point[0] <= 127


def test_scales_are_float32_values(program: QuantizedProgram) -> None:
    scales = np.concatenate([entry.scale for entry in program.table])
    assert (scales > 0).all()
    assert (scales == scales.astype(np.float32)).all()


@pytest.mark.parametrize("name", ["program", "four"])
def test_a_saved_program_comes_back_bit_for_bit(request: pytest.FixtureRequest, name: str, tmp_path: Path) -> None:
    program = request.getfixturevalue(name)
    save_module(student(), ARCHITECTURE, tmp_path)
    folder = tmp_path / "program"
    folder.mkdir()
    save_program(program, tmp_path / "architecture.json", folder)
    restored = load_program(folder, load_architecture(folder))
    assert restored.table == program.table
    assert torch.equal(answers(restored.model), answers(program.model))
    assert torch.equal(answers(restored.frozen(stored=False)), answers(program.frozen(stored=False)))


def sequential(input_shape: Sequence[int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(128, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, classes))


def test_the_program_of_a_users_model_comes_back_too(tmp_path: Path) -> None:
    architecture = dataclasses.replace(ARCHITECTURE, model=f"{__name__}:sequential", args={})
    module = sequential((2, 8, 8), 4).eval()
    save_module(module, architecture, tmp_path)
    folder = tmp_path / "program"
    folder.mkdir()
    program = quantize(module, inputs(), train)
    save_program(program, tmp_path / "architecture.json", folder)
    restored = load_program(folder, architecture)
    assert restored.table == program.table
    assert torch.equal(answers(restored.model), answers(program.model))


def test_a_table_comes_back_from_its_file(program: QuantizedProgram, tmp_path: Path) -> None:
    write_table(program.table, tmp_path / "table.json")
    assert read_table(json.loads((tmp_path / "table.json").read_text())) == program.table


@pytest.mark.parametrize("name", ["program", "narrowed", "four"])
def test_both_frozen_forms_answer_alike(request: pytest.FixtureRequest, name: str) -> None:
    program = request.getfixturevalue(name)
    assert torch.equal(answers(program.frozen(stored=True)), answers(program.frozen(stored=False)))


@pytest.mark.parametrize("name", ["program", "narrowed", "four"])
def test_a_frozen_program_answers_like_the_trained_model(request: pytest.FixtureRequest, name: str) -> None:
    program = request.getfixturevalue(name)
    trained, frozen = answers(program.model), answers(program.frozen(stored=False))
    steps = (frozen - trained).abs().max() / program.table[-1].scale[0]
    assert steps < 2.5
    assert trained.unique().numel() > 100


def test_freezing_leaves_the_program_as_it_was(program: QuantizedProgram) -> None:
    before = answers(program.model)
    program.frozen(stored=True)
    assert torch.equal(answers(program.model), before)


def test_frozen_activations_lie_on_their_grid(program: QuantizedProgram) -> None:
    outputs, entry = answers(program.frozen(stored=True)), program.table[-1]
    numbers = outputs / entry.scale[0] + entry.zero_point[0]
    torch.testing.assert_close(numbers, numbers.round(), rtol=0, atol=1e-3)
    assert numbers.round().min() >= -128
    assert numbers.round().max() <= 127


def test_biases_are_whole_steps(program: QuantizedProgram) -> None:
    steps = {
        program.table[position].tensor: torch.tensor(program.table[position].scale) * program.table[source].scale[0]
        for entry in program.table
        for position in entry.sources
        for source in entry.sources
        if (program.table[position].kind, program.table[source].kind) == ("weight", "activation")
    }
    assert len(steps) == sum(entry.kind == "weight" for entry in program.table)
    for weight, step in steps.items():
        bias = program.model.get_parameter(weight.removesuffix("weight") + "bias").detach()
        assert bias.abs().max() > step.min()
        assert torch.equal((bias / step).round() * step, bias)


@pytest.mark.parametrize(("low", "high"), [(-0.0016, 3.8), (-3.8, 0.0016), (-1.31, 2.2), (0.4, 2.0)])
def test_training_rounds_as_the_table_says(low: float, high: float) -> None:
    """Also where training has moved an end of the range off zero by less than a step."""
    quantizer = nncf_backend._quantizer(torch.tensor(low), torch.tensor(high), False)
    smallest, largest, scale, zero_point = quantizer.get_parameters_for_torch_fq()
    numbers = torch.linspace(low - 1, high + 1, 5001)
    expected = torch.fake_quantize_per_tensor_affine(numbers, float(scale), int(zero_point), smallest, largest)
    with torch.no_grad():
        off = (quantizer(numbers) - expected).abs() / scale
    assert (off > 0.5).sum() <= 1  # one that lies between two steps to the last bit
