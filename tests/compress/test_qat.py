import copy
import socket
import sys

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.compress import nncf_backend, quantize
from edgekd.compress.fold import fold_batch_norm
from edgekd.compress.program import QuantizedProgram
from edgekd.distill import Distiller, supervised
from edgekd.distill.examples import Examples
from edgekd.distill.trainer import fit
from edgekd.errors import ExportError
from edgekd.models.build import Architecture
from edgekd.models.resnet import resnet
from edgekd.recipe import Training
from tests.compress.students import lively, noise

SHAPE = (1, 8, 8)


def inputs(count: int = 64) -> torch.Tensor:
    return noise(SHAPE, count)


def model() -> nn.Module:
    return lively(Architecture("ds_cnn", {"width": 4, "blocks": 1}, SHAPE, 3))


def train(quantized: nn.Module) -> None:
    examples = Examples(inputs()[None], torch.arange(64) % 3)
    fit(Distiller(quantized, None, supervised()), examples, Training(epochs=3, batch_size=16, learning_rate=1e-2), 0)


@pytest.fixture(scope="module")
def quantized() -> nn.Module:
    """With quantizers, not trained."""
    return nncf_backend.insert_quantizers(fold_batch_norm(model(), torch.zeros(1, *SHAPE)), inputs())


def test_the_passed_model_is_untouched() -> None:
    original = model().train()
    before, names = copy.deepcopy(original.state_dict()), [name for name, _ in original.named_modules()]
    quantize(original, inputs(), train)
    assert original.training
    assert [name for name, _ in original.named_modules()] == names
    assert original.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items())


def test_without_training_the_answers_stay_near() -> None:
    original = model().eval()
    program = quantize(original, inputs())
    with torch.no_grad():
        expected, found = original(inputs()), program.model(inputs())
    assert (found - expected).abs().mean() < 0.03 * (expected.max() - expected.min())
    assert (found.argmax(dim=1) == expected.argmax(dim=1)).float().mean() > 0.95


def test_training_reaches_the_weights_and_every_range() -> None:
    before, after = quantize(model(), inputs()), quantize(model(), inputs(), train)
    pairs = zip(before.table, after.table, strict=True)
    assert [old.tensor for old, new in pairs if old.scale == new.scale] == []


def test_weights_of_4_bits_start_from_the_range_with_the_least_error_and_are_trained() -> None:
    before, after = (quantize(model(), inputs(), how, weight_bits=4).table for how in (None, train))
    folded, fewer = fold_batch_norm(model(), torch.zeros(1, *SHAPE)), 0
    for entry in before:
        if entry.kind == "activation":
            continue
        weight = folded.get_parameter(entry.tensor).detach().flatten(1).double()
        largest = weight.abs().amax(1, keepdim=True)
        shares = 7 * torch.tensor(entry.scale).double()[:, None] / largest
        assert ((shares > 0.499) & (shares < 1.001)).all()
        fewer += int((shares < 0.99).sum())

        def error(scale: torch.Tensor, weight: torch.Tensor = weight) -> torch.Tensor:
            return (scale * (weight / scale).round().clamp(-7, 7) - weight).square().sum(1)

        found = error(shares * largest / 7)
        for share in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5):
            assert (found <= error(share * largest / 7) * 1.001 + 1e-12).all()
    assert fewer > 0
    assert all(one.scale != other.scale for one, other in zip(before, after, strict=True) if one.kind == "weight")


def test_an_embedding_keeps_8_bits() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows, self.classifier = nn.Embedding(9, 4), nn.Linear(4, 3)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.classifier(self.rows(ids).mean(1))

    table = quantize(Words(), torch.arange(40, dtype=torch.int32).reshape(8, 5) % 9, weight_bits=4).table
    bits = {entry.tensor: entry.bits for entry in table if entry.kind == "weight"}
    assert bits == {"rows.weight": 8, "classifier.weight": 4}


def test_a_known_input_range_is_the_scale_of_the_input(quantized: nn.Module) -> None:
    example, wrong = torch.zeros(1, *SHAPE), []
    for mean in (0, 1, 127, 128, 200, 255):
        for std in (64.0, 57.3, 100 / 3, 255.0, 1.0):
            pinned = copy.deepcopy(quantized)
            nncf_backend.pin_input(pinned, example, (0 - mean) / std, (255 - mean) / std)
            found = QuantizedProgram.of(pinned, example).table[0]
            assert found.zero_point == (mean - 128,)
            if found.scale[0] != pytest.approx(1 / std, rel=1e-6):
                wrong.append((mean, std, found.scale[0]))
    assert wrong == []


@pytest.mark.parametrize(("mean", "std"), [(128, 64.0), (0, 255.0), (33, 50.0)])
def test_a_known_input_range_is_not_trained(mean: int, std: float) -> None:
    program = quantize(model(), inputs(), train, ((0 - mean) / std, (255 - mean) / std))
    found = program.table[0]
    assert found.zero_point == (mean - 128,)
    assert found.scale[0] == pytest.approx(1 / std, rel=1e-5)
    pixels = torch.arange(256.0)
    numbers = torch.round((pixels - mean) / std / found.scale[0]) + found.zero_point[0]
    assert torch.equal(numbers, pixels - 128)


@pytest.mark.parametrize(("sign", "low", "zero_point"), [(1.0, 0.0, -128), (-1.0, -255 / 8, 127)])
def test_a_known_input_range_holds_for_inputs_of_one_sign(sign: float, low: float, zero_point: int) -> None:
    found = quantize(model(), sign * inputs().abs(), None, (low, low + 255 / 8)).table[0]
    assert found.scale == (0.125,)
    assert found.zero_point == (zero_point,)
    assert (found.low, found.high) == (-128, 127)


def test_a_calibrated_range_holds_every_sample_and_an_output_range_replaces_it() -> None:
    original = model().eval()
    with torch.no_grad():
        outputs = original(inputs())
    low, high = float(outputs.min()), float(outputs.max())
    calibrated, wider = quantize(original, inputs()), quantize(original, inputs(), None, None, (2 * low, 2 * high))
    for found, share in ((calibrated, 1), (wider, 2)):
        entry = found.table[-1]
        assert entry.scale[0] == pytest.approx(share * (high - low) / 255, rel=0.01)
        assert entry.scale[0] * (entry.low - entry.zero_point[0]) == pytest.approx(share * low, abs=entry.scale[0])
    assert [one.scale for one in wider.table[:-1]] == [one.scale for one in calibrated.table[:-1]]


def test_the_range_of_a_layer_with_a_single_output_is_that_of_all_samples() -> None:
    torch.manual_seed(0)
    narrow = nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Linear(1, 3)).eval()
    with torch.no_grad():
        outputs = narrow[:2](inputs())
    found = next(one for one in quantize(narrow, inputs()).table if one.tensor == "model/1/linear/0")
    low, high = (found.scale[0] * (number - found.zero_point[0]) for number in (found.low, found.high))
    assert (low, high) == (pytest.approx(float(outputs.min()), rel=0.05), pytest.approx(float(outputs.max()), rel=0.05))


def test_an_output_range_is_trained_on() -> None:
    before, after = (quantize(model(), inputs(), way, None, (-4.0, 4.0)) for way in (None, train))
    assert before.output_scale == pytest.approx(8 / 255, rel=0.01)
    assert after.output_scale != before.output_scale


def test_no_statistics_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def refuse(self: socket.socket, address: object) -> None:
        calls.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    quantize(model(), inputs(8))
    assert calls == []
    assert sys.modules["openvino_telemetry"] is None
    assert not [name for name in sys.modules if name.startswith("openvino_telemetry.")]


@pytest.mark.parametrize(
    ("original", "shape"),
    [
        (resnet(SHAPE, 3, width=4, blocks=(1, 1)), SHAPE),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)), SHAPE),
    ],
    ids=["resnet", "perceptron"],
)
def test_other_families_are_quantized_through_and_through(original: nn.Module, shape: tuple[int, ...]) -> None:
    program = quantize(original, inputs())
    weights = [entry.tensor.removeprefix("model.") for entry in program.table if entry.kind == "weight"]
    expected = [f"{name}.weight" for name, one in original.named_modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    assert sorted(weights) == sorted(expected)
    assert program.table[0].kind == program.table[-1].kind == "activation"


def test_a_constant_input_gives_usable_scales() -> None:
    program = quantize(model(), torch.zeros(8, *SHAPE))
    scales = np.concatenate([entry.scale for entry in program.table])
    assert np.isfinite(scales).all()
    assert (scales > 0).all()


class TakesSides(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs if inputs.sum() > 0 else -inputs


def test_a_model_that_cannot_be_traced_is_refused() -> None:
    with pytest.raises(ExportError, match="TakesSides"):
        quantize(TakesSides(), inputs())


class Half(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs / 2


@pytest.mark.parametrize("first", [nn.GELU(), nn.LayerNorm(8), Half(), nn.Sequential(Half(), nn.ReLU(), nn.Dropout())])
def test_nothing_is_quantized_between_operations_in_float(first: nn.Module) -> None:
    network = nn.Sequential(nn.Linear(8, 8), first, nn.LayerNorm(8), nn.Linear(8, 3))
    table = quantize(network, noise((4, 8), 8)).table
    operations = [entry.tensor.split("/")[-2] for entry in table[1:] if entry.kind == "activation"]
    assert operations == ["linear", "layer_norm", "linear"]


def test_what_a_layer_takes_is_quantized_wherever_else_it_goes() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms, self.layers = nn.ModuleList([nn.LayerNorm(8) for _ in range(2)]), nn.ModuleList()
            self.layers.extend(nn.Linear(8, 3) for _ in range(2))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            first = self.norms[0](inputs)
            return self.layers[0](first) + self.layers[1](self.norms[1](first))

    table = quantize(Forked(), noise((4, 8), 8)).table
    assert sum(entry.kind == "activation" and "layer_norm" in entry.tensor for entry in table) == 2
