from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.models.build import parameter_count
from edgekd.models.cost import macs
from edgekd.models.ds_cnn import ds_cnn
from edgekd.models.evaluate import points, predict
from edgekd.models.resnet import resnet
from edgekd.models.text_encoder import text_encoder


def ds_cnn_parameters(channels: int, classes: int, width: int, blocks: int, kernel: Sequence[int]) -> int:
    stem = kernel[0] * kernel[1] * channels * width + 2 * width
    block = 3 * 3 * width + 2 * width + width * width + 2 * width
    return stem + blocks * block + width * classes + classes


def resnet_parameters(channels: int, classes: int, width: int, blocks: Sequence[int]) -> int:
    total, inputs = 3 * 3 * channels * width + 2 * width, width
    for stage, count in enumerate(blocks):
        outputs = width * 2**stage
        for index in range(count):
            total += 9 * inputs * outputs + 2 * outputs + 9 * outputs * outputs + 2 * outputs
            if index == 0 and stage > 0:
                total += inputs * outputs + 2 * outputs
            inputs = outputs
    return total + inputs * classes + classes


@pytest.mark.parametrize(
    ("channels", "classes", "width", "blocks", "kernel"),
    [(1, 10, 64, 4, (3, 3)), (1, 12, 32, 4, (10, 4)), (3, 2, 8, 1, (5, 5))],
)
def test_ds_cnn_has_the_parameters_of_its_formula(
    channels: int, classes: int, width: int, blocks: int, kernel: tuple[int, int]
) -> None:
    model = ds_cnn((channels, 20, 20), classes, width=width, blocks=blocks, stem_kernel=kernel)
    assert parameter_count(model) == ds_cnn_parameters(channels, classes, width, blocks, kernel)


@pytest.mark.parametrize(
    ("channels", "classes", "width", "blocks"), [(3, 10, 16, (1, 1, 1)), (1, 4, 8, (2, 3)), (1, 10, 32, (1,))]
)
def test_resnet_has_the_parameters_of_its_formula(
    channels: int, classes: int, width: int, blocks: tuple[int, ...]
) -> None:
    model = resnet((channels, 16, 16), classes, width=width, blocks=blocks)
    assert parameter_count(model) == resnet_parameters(channels, classes, width, blocks)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 33, 17), (2, 49, 10)])
@pytest.mark.parametrize("family", [ds_cnn, resnet])
def test_any_input_size_gives_one_logit_a_class(family: type, shape: tuple[int, int, int]) -> None:
    model = family(shape, 5, width=8).eval()
    assert model(torch.zeros(3, *shape)).shape == (3, 5)


def test_the_stem_of_ds_cnn_can_stride() -> None:
    model = ds_cnn((1, 49, 40), 10, width=8, stem_kernel=(10, 4), stem_stride=(2, 2))
    assert model.stem(torch.zeros(1, 1, 49, 40)).shape[2:] == (25, 21)


def test_each_stage_of_resnet_halves_the_map_and_doubles_the_width() -> None:
    model = resnet((3, 32, 32), 10, width=4, blocks=(1, 2, 1), stem_stride=2)
    assert model.blocks(model.stem(torch.zeros(1, 3, 32, 32))).shape == (1, 16, 4, 4)


def test_the_shortcut_of_a_residual_block_goes_around_its_convolutions() -> None:
    block = resnet((3, 8, 8), 2, width=4, blocks=(1,)).blocks[0].eval()
    nn.init.zeros_(block.second[1].weight)
    inputs = torch.randn(2, 4, 8, 8)
    assert torch.equal(block(inputs), torch.relu(inputs))


@pytest.mark.parametrize(
    ("layer", "shape", "by_hand"),
    [
        (nn.Linear(12, 5), (1, 12), 12 * 5),
        (nn.Conv2d(3, 8, 3, padding=1), (1, 3, 10, 6), 10 * 6 * 8 * 3 * 9),
        (nn.Conv2d(3, 8, 5, stride=2), (1, 3, 11, 9), 4 * 3 * 8 * 3 * 25),
        (nn.Conv2d(6, 6, 3, padding=1, groups=6), (1, 6, 10, 10), 100 * 6 * 9),
        (nn.Conv1d(2, 4, 3), (1, 2, 16), 14 * 4 * 2 * 3),
        (nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(), nn.AdaptiveAvgPool2d(1)), (1, 2, 4, 4), 0),
    ],
    ids=["linear", "conv", "strided", "depthwise", "1-d", "no products"],
)
def test_multiply_accumulates_are_those_counted_by_hand(layer: nn.Module, shape: tuple[int, ...], by_hand: int) -> None:
    assert macs(layer, torch.zeros(shape)) == by_hand


def test_multiply_accumulates_of_ds_cnn() -> None:
    model = ds_cnn((1, 8, 8), 4, width=8, blocks=2)
    assert macs(model, torch.zeros(1, 1, 8, 8)) == 64 * (9 * 8) + 2 * 64 * (9 * 8 + 8 * 8) + 8 * 4


def test_attention_counts_as_its_two_matrix_products() -> None:
    model = text_encoder((8,), 3, 50, width=16, layers=1, heads=2, hidden=32)
    linear, attention = 8 * (4 * 16 * 16 + 2 * 16 * 32) + 16 * 3, 2 * 8 * 8 * 16
    assert macs(model, torch.zeros(1, 8, dtype=torch.int32)) == linear + attention


def test_predictions_do_not_depend_on_the_batch_size() -> None:
    model = ds_cnn((1, 8, 8), 4, width=8, blocks=1).train()
    inputs = torch.randn(7, 1, 8, 8)
    outputs = predict(model, inputs, batch_size=3)
    assert outputs.shape == (7, 4)
    np.testing.assert_allclose(outputs, predict(model, inputs, batch_size=7), atol=1e-6)


def test_points_are_hundredths() -> None:
    assert points(2 / 3) == 66.67
