from typing import Any

import pytest
import torch
from torch import nn

from edgekd.errors import UsageError
from edgekd.models.cost import macs
from edgekd.models.ds_cnn import ds_cnn
from edgekd.models.low_rank import apply_low_rank, full_rank, low_rank_form, lowers_macs

CONVOLUTIONS: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": (5, 1), "stride": (2, 3), "padding": (2, 0), "dilation": (2, 1)},
    {"kernel_size": 3, "padding": "same", "bias": False},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    {"kernel_size": 1, "stride": 2},
]


@pytest.mark.parametrize("options", CONVOLUTIONS)
def test_a_convolution_costs_its_kernel_to_the_rank_and_a_1x1(options: dict[str, Any]) -> None:
    layer, inputs = nn.Conv2d(6, 10, **options), torch.zeros(1, 6, 13, 9)
    form, outputs = low_rank_form(layer, 3), layer(inputs)
    assert form(inputs).shape == outputs.shape
    positions = outputs.shape[2] * outputs.shape[3]
    kernel = layer.kernel_size[0] * layer.kernel_size[1]
    assert macs(form, inputs) == positions * 3 * (6 * kernel + 10)
    assert [tuple(one.kernel_size) for one in form] == [layer.kernel_size, (1, 1)]
    assert form[0].bias is None
    assert (form[1].bias is None) == (layer.bias is None)


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_costs_the_rank_times_inputs_and_outputs(bias: bool) -> None:
    form = low_rank_form(nn.Linear(12, 7, bias), 2)
    assert macs(form, torch.zeros(1, 12)) == 2 * (12 + 7)
    assert sum(one.numel() for one in form.parameters()) == 2 * (12 + 7) + 7 * bias


def test_it_costs_less_below_the_rank_where_both_are_even() -> None:
    layer, example = nn.Conv2d(4, 12, 3), torch.zeros(1, 4, 3, 3)  # 12 x 36: even at 432 / 48 = 9
    cheaper = [rank for rank in range(1, 13) if macs(low_rank_form(layer, rank), example) < macs(layer, example)]
    assert cheaper == [rank for rank in range(1, 13) if lowers_macs(layer, rank)] == list(range(1, 9))


@pytest.mark.parametrize(
    ("layer", "expected"),
    [(nn.Linear(12, 7), 7), (nn.Linear(3, 7), 3), (nn.Conv2d(2, 30, 3), 18), (nn.Conv2d(4, 8, 1), 4)],
)
def test_the_full_rank_is_the_smaller_side_of_the_matrix(layer: nn.Linear | nn.Conv2d, expected: int) -> None:
    assert full_rank(layer) == expected
    low_rank_form(layer, expected)
    with pytest.raises(UsageError, match=f"from 1 to {expected}, not {expected + 1}"):
        low_rank_form(layer, expected + 1)


@pytest.mark.parametrize("rank", [0, -1, 2.0, "2", True, None])
def test_a_rank_that_is_none_is_refused(rank: Any) -> None:
    with pytest.raises(UsageError, match="whole number from 1 to 4"):
        low_rank_form(nn.Linear(4, 4), rank)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv1d(4, 4, 3),
        nn.ConvTranspose2d(4, 4, 3),
        nn.ReLU(),
        nn.MultiheadAttention(4, 2).out_proj,
    ],
)
def test_other_layers_have_no_such_form(layer: nn.Module) -> None:
    with pytest.raises(UsageError, match="no low-rank form"):
        low_rank_form(layer, 1)


def test_the_form_has_the_mode_and_type_of_its_layer() -> None:
    form = low_rank_form(nn.Linear(4, 4, dtype=torch.float64).eval(), 1)
    assert {one.dtype for one in form.parameters()} == {torch.float64}
    assert not any(one.training for one in form.modules())


def test_layers_are_replaced_by_name_in_a_copy() -> None:
    model = ds_cnn((1, 8, 8), 3, width=8, blocks=2)
    names = list(model.state_dict())
    changed = apply_low_rank(model, {"blocks.1.1.0": 2, "classifier": 1})
    assert list(model.state_dict()) == names
    assert isinstance(model.classifier, nn.Linear)
    assert set(changed.state_dict()) - set(names) == {
        "blocks.1.1.0.0.weight",
        "blocks.1.1.0.1.weight",
        "classifier.0.weight",
        "classifier.1.weight",
        "classifier.1.bias",
    }
    assert changed(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    assert torch.equal(changed.stem[0].weight, model.stem[0].weight)


def test_a_layer_of_the_form_can_be_replaced_again() -> None:
    once = apply_low_rank(nn.Sequential(nn.Linear(8, 8)), {"0": 4})
    twice = apply_low_rank(once, {"0.1": 2})
    assert [tuple(one.shape) for one in twice.parameters()] == [(4, 8), (2, 4), (8, 2), (8,)]


def test_a_model_that_is_one_layer_can_be_replaced() -> None:
    assert macs(apply_low_rank(nn.Linear(8, 8), {"": 2}), torch.zeros(1, 8)) == 32


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"clasifier": 1}, "no layer 'clasifier'; did you mean 'classifier'?"),
        ({"blocks.0.0.0": 1}, "layer 'blocks.0.0.0': Conv2d has no low-rank form"),
        ({"classifier": 4}, "layer 'classifier': the rank must be a whole number from 1 to 3, not 4"),
    ],
)
def test_what_does_not_fit_the_model_is_named(layers: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        apply_low_rank(ds_cnn((1, 8, 8), 3, width=8, blocks=1), layers)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
