import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import nn
from torch.nn.utils import parametrizations

from edgekd.compress import nncf_backend, quantize
from edgekd.compress.factorize import factorize, truncated
from edgekd.compress.fold import fold_batch_norm
from edgekd.errors import UsageError
from edgekd.export.card import Card
from edgekd.export.formats import export_program
from edgekd.models.build import Architecture
from edgekd.models.cost import macs
from edgekd.models.low_rank import apply_low_rank
from tests.compress.students import lively, noise

RESNET = Architecture("resnet", {"width": 8, "blocks": (1, 1)}, (2, 8, 8), 4)
EXAMPLE = torch.zeros(1, *RESNET.input_shape)


def with_values(layer: nn.Linear | nn.Conv2d, values: list[float]) -> Any:
    """A layer whose weight has these singular values, and no others."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = layer.weight.flatten(1).shape
    left, right = (
        torch.linalg.qr(torch.randn(size, len(values), generator=generator, dtype=torch.float64))[0]
        for size in (rows, columns)
    )
    matrix = left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right.T
    layer.weight.data = matrix.reshape(layer.weight.shape).float()
    return layer


def answers(model: nn.Module, *shape: int) -> torch.Tensor:
    with torch.no_grad():
        return model(noise(shape, 5))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(9, 5), (9,)),
        (nn.Linear(5, 9, bias=False), (3, 5)),
        (nn.Conv2d(3, 8, 3, 2, 1), (3, 9, 7)),
        (nn.Conv2d(4, 5, (3, 1), padding="same", dilation=2), (4, 9, 7)),
        (nn.Conv2d(4, 5, 3, padding=1, padding_mode="circular"), (4, 9, 7)),
        (nn.Conv2d(6, 4, 1, bias=False), (6, 5, 5)),
    ],
    ids=["linear", "linear over tokens", "strided", "dilated", "circular", "1x1"],
)
def test_at_full_rank_the_outputs_are_those_of_the_layer(layer: nn.Linear | nn.Conv2d, shape: tuple[int, ...]) -> None:
    rank = min(layer.weight.flatten(1).shape)
    torch.testing.assert_close(answers(truncated(layer, rank), *shape), answers(layer, *shape), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.Linear(20, 16), (20,)), (nn.Conv2d(4, 12, 3), (4, 6, 6))], ids=["linear", "conv"]
)
def test_a_weight_of_a_low_rank_is_found_and_reproduced(layer: nn.Linear | nn.Conv2d, shape: tuple[int, ...]) -> None:
    model = nn.Sequential(with_values(layer, [3.0, 1.0, 0.01]))
    factorized, ranks = factorize(model, torch.zeros(1, *shape), energy=1.0)
    assert ranks == {"0": 3}
    torch.testing.assert_close(answers(factorized, *shape), answers(model, *shape), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("energy", "rank"),
    [(0.01, 1), (16 / 30 - 1e-6, 1), (16 / 30 + 1e-6, 2), (0.83, 2), (0.84, 3), (0.96, 3), (0.97, 4), (1.0, 4)],
)
def test_the_energy_is_the_share_of_the_squared_singular_values(energy: float, rank: int) -> None:
    model = nn.Sequential(with_values(nn.Linear(20, 20), [4.0, 3.0, 2.0, 1.0]))
    assert factorize(model, torch.zeros(1, 20), energy=energy)[1] == {"0": rank}


@pytest.mark.parametrize(("share", "rank"), [(0.001, 1), (0.1, 2), (0.26, 5), (0.45, 9)])
def test_the_rank_is_a_share_of_the_full_rank(share: float, rank: int) -> None:
    assert factorize(nn.Sequential(nn.Linear(20, 30)), torch.zeros(1, 20), rank=share)[1] == {"0": rank}


@pytest.mark.parametrize("layer", [nn.Linear(20, 12), nn.Conv2d(4, 12, 3)], ids=["linear", "conv"])
@pytest.mark.parametrize("rank", [1, 4, 11])
def test_the_error_is_that_of_the_singular_values_left_out(layer: nn.Linear | nn.Conv2d, rank: int) -> None:
    first, second = truncated(layer, rank)
    error = (layer.weight.flatten(1) - second.weight.flatten(1) @ first.weight.flatten(1)).detach()
    left_out = torch.linalg.svdvals(layer.weight.detach().flatten(1))[rank:]
    assert error.norm() == pytest.approx(float(left_out.norm()), rel=1e-4)
    assert torch.linalg.matrix_norm(error, 2) == pytest.approx(float(left_out[0]), rel=1e-4)


def test_both_layers_carry_a_half_of_each_singular_value() -> None:
    first, second = truncated(with_values(nn.Linear(20, 20), [9.0, 4.0]), 2)
    torch.testing.assert_close(first.weight.norm(dim=1), torch.tensor([3.0, 2.0]))
    torch.testing.assert_close(second.weight.norm(dim=0), torch.tensor([3.0, 2.0]))


def test_multiply_accumulates_fall_as_the_formula_says() -> None:
    model = lively(RESNET)
    factorized, ranks = factorize(model, EXAMPLE, rank=0.5)
    saved = 0
    for name, rank in ranks.items():
        weight = model.get_submodule(name).weight
        outputs, inputs = weight.flatten(1).shape
        positions = 1 if name == "classifier" else 16 if name.startswith("blocks.1") else 64
        saved += positions * (outputs * inputs - rank * (outputs + inputs))
    assert ranks["blocks.0.first.0"] == 4
    assert ranks["blocks.1.second.0"] == 8
    assert macs(factorized, EXAMPLE) == macs(model, EXAMPLE) - saved


def test_a_layer_that_would_not_become_cheaper_stays() -> None:
    model = nn.Sequential(nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 2))
    factorized, ranks = factorize(model, torch.zeros(1, 40), rank=0.5)  # 2: 1 * 42 < 80, but 40: 20 * 80 = 40 * 40
    assert ranks == {"2": 1}
    assert torch.equal(factorized[0].weight, model[0].weight)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.inner, self.output = nn.Embedding(20, 16), nn.Linear(16, 16), nn.Linear(16, 20)
        self.output.weight = self.tokens.weight
        self.again = nn.ModuleList([nn.Linear(16, 16)] * 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.output(self.again[1](self.again[0](self.inner(self.tokens(ids).mean(dim=1)))))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.last = nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 16)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.last(self.attention(inputs, inputs, inputs, need_weights=False)[0].mean(dim=1))


@pytest.mark.parametrize(
    ("model", "example", "replaced"),
    [
        (Tied(), torch.zeros(1, 4, dtype=torch.int32), ["inner"]),
        (Attention(), torch.zeros(1, 4, 16), ["last"]),
        (nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 8, 1)), None, ["2"]),
        (nn.Sequential(nn.Conv2d(8, 8, 3), parametrizations.weight_norm(nn.Conv2d(8, 8, 1))), None, ["0"]),
    ],
    ids=["shared weights", "attention of torch", "groups", "computed weights"],
)
def test_layers_that_cannot_be_two_are_left_alone(
    model: nn.Module, example: torch.Tensor | None, replaced: list[str]
) -> None:
    _, ranks = factorize(model, torch.zeros(1, 8, 5, 5) if example is None else example, rank=0.25)
    assert list(ranks) == replaced


@pytest.mark.parametrize(
    ("patterns", "replaced"),
    [
        (["classifier"], ["classifier"]),
        (["blocks.0.*"], ["blocks.0.first.0", "blocks.0.second.0"]),
        (["*.second.0", "class*"], ["blocks.0.second.0", "blocks.1.second.0", "classifier"]),
    ],
)
def test_patterns_choose_layers(patterns: list[str], replaced: list[str]) -> None:
    assert list(factorize(lively(RESNET), EXAMPLE, rank=0.25, layers=patterns)[1]) == replaced


def test_a_batch_norm_behind_a_replaced_convolution_folds() -> None:
    factorized, ranks = factorize(lively(RESNET), EXAMPLE, rank=0.5)
    folded = fold_batch_norm(factorized, EXAMPLE)
    assert len(ranks) == 7
    assert not any(isinstance(one, nn.BatchNorm2d) for one in folded.modules())
    torch.testing.assert_close(
        answers(folded, *RESNET.input_shape), answers(factorized, *RESNET.input_shape), rtol=1e-4, atol=1e-4
    )


def test_the_ranks_are_enough_to_build_the_model_again() -> None:
    model = lively(RESNET)
    factorized, ranks = factorize(model, EXAMPLE, energy=0.6)
    again = apply_low_rank(lively(RESNET, seed=5), ranks)
    again.load_state_dict(factorized.state_dict())
    shape = RESNET.input_shape
    assert torch.equal(answers(again, *shape), answers(factorized, *shape))


@pytest.mark.parametrize("training", [True, False])
def test_the_passed_model_is_untouched_and_its_mode_kept(training: bool) -> None:
    model = lively(RESNET).train(training)
    model.stem.eval()
    before = copy.deepcopy(model.state_dict())
    factorized, _ = factorize(model, EXAMPLE, rank=0.5)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training == factorized.training == factorized.classifier[0].training == training
    assert not model.stem[0].training
    assert not factorized.stem[0][0].training
    running = factorized.state_dict()["blocks.0.first.1.running_mean"]
    assert torch.equal(running, before["blocks.0.first.1.running_mean"])


def refusal(model: nn.Module, example: torch.Tensor, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        factorize(model, example, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either energy or rank"),
        ({"energy": 0.5, "rank": 0.5}, "either energy or rank"),
        ({"energy": 0.0}, "energy must be above 0 and at most 1, not 0.0"),
        ({"rank": 1.5}, "rank must be above 0 and at most 1, not 1.5"),
        ({"energy": float("nan")}, "energy must be above 0 and at most 1, not nan"),
        ({"rank": 1.0}, "with rank 1.0 no layer of * has fewer multiply-accumulates"),
        ({"rank": 0.5, "layers": ()}, "no layer"),
        ({"rank": 0.5, "layers": ("classifier", "blokcs.0.first.0")}, "did you mean 'blocks.0.first.0'?"),
        ({"rank": 0.5, "layers": ("blocks.0",)}, "no linear or convolution layer is named 'blocks.0'"),
    ],
)
def test_what_is_asked_wrongly_is_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    assert message in refusal(lively(RESNET), EXAMPLE, **options)


def test_a_weight_that_is_not_finite_is_named() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight.data[2, 3] = float("nan")
    assert "'1' holds NaN" in refusal(model, torch.zeros(1, 8), energy=0.5)
    assert "'1' holds NaN" in refusal(model, torch.zeros(1, 8), rank=0.2)


def test_a_model_that_looks_into_a_layer_is_refused() -> None:
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs @ self.layer.weight

    message = refusal(Looks(), torch.zeros(1, 8), rank=0.2)
    assert "Looks does not run" in message
    assert "no attribute 'weight'" in message
    assert "layer" in message


def test_a_quantized_model_is_refused() -> None:
    folded = fold_batch_norm(lively(RESNET), EXAMPLE)
    message = refusal(nncf_backend.insert_quantizers(folded, noise(RESNET.input_shape, 4)), EXAMPLE, rank=0.5)
    assert "quantized already" in message


def test_a_weight_of_zeros_has_rank_one() -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    nn.init.zeros_(model[0].weight)
    factorized, ranks = factorize(model, torch.zeros(1, 8), energy=0.9)
    assert ranks == {"0": 1}
    assert torch.equal(answers(factorized, 8), answers(model, 8))


def test_a_factorized_model_is_quantized_and_exported(tmp_path: Path) -> None:
    model, ranks = factorize(lively(RESNET), EXAMPLE, rank=0.5)
    program = quantize(model, noise(RESNET.input_shape, 32))
    weights = {entry.tensor for entry in program.table if entry.kind == "weight"}
    assert {f"{name}.{half}.weight" for name in ranks for half in (0, 1)} <= weights
    file = export_program(program, "tflite", "int8", tmp_path, Card("student", (), "logits", {"input": "features"}))
    loaded = Interpreter(model_path=str(file))
    loaded.allocate_tensors()
    (source,), (sink,) = loaded.get_input_details(), loaded.get_output_details()
    inputs = noise(RESNET.input_shape, 20, seed=1)
    with torch.no_grad():
        expected = torch.round(program.model(inputs) / sink["quantization"][0]) + sink["quantization"][1]
    scale, zero_point = source["quantization"]
    for one, numbers in zip(inputs, expected, strict=True):
        stored = (torch.round(one / scale) + zero_point).clamp(-128, 127).to(torch.int8)
        loaded.set_tensor(source["index"], stored.permute(1, 2, 0)[None].numpy())
        loaded.invoke()
        assert abs(loaded.get_tensor(sink["index"])[0] - numbers.numpy()).max() <= 1
