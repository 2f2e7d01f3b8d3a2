"""The image families against their papers, and their arguments."""

from typing import Any

import pytest
import torch
from torch import nn

from edgekd.compress.fold import fold_batch_norm
from edgekd.errors import UsageError
from edgekd.models.build import Architecture, build, example_input, parameter_count
from edgekd.models.cost import macs
from edgekd.models.layers import MaxPool, rounded, strided
from edgekd.models.shufflenet_v2 import shuffle
from edgekd.models.text_encoder import text_encoder

FAMILIES = (
    "squeezenet",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3",
    "mnasnet",
    "shufflenet_v2",
    "xception",
    "efficientnet_lite",
)
PUBLISHED = [
    # torchvision's figures are `num_params` and GFLOPS of its weights, which count a product once.
    # SqueezeNet 1.1 is in no paper, but in the authors' repository. torchvision: squeezenet1_1.
    ("squeezenet", 224, 1_235_496, 349e6),
    # Howard et al. 2017, table 8, "1.0 MobileNet-224": 4.2 M; the authors' mobilenet_v1.md has one more digit.
    ("mobilenet_v1", 224, 4.24e6, 569e6),
    # The authors' table of mobilenet_v2_1.0_224, which leaves batch norm out. torchvision: 3,504,872 and 0.301 billion.
    ("mobilenet_v2", 224, 3.47e6, 300e6),
    # Howard et al. 2019, table 3, "V3-Small 1.0". torchvision: 2,542,856 and 0.057 billion.
    ("mobilenet_v3", 224, 2.5e6, 56e6),
    # Tan et al. 2019, table 1, "MnasNet-A1"; the authors' README says the same.
    ("mnasnet", 224, 3.9e6, 312e6),
    # The authors' table of ShuffleNetV2 1.0x. torchvision: 2,278,604 and 0.145 billion.
    ("shufflenet_v2", 224, 2.3e6, 146e6),
    # Chollet 2017, table 3, has the parameters alone. Products: the table of osmr/imgclsmob, for 299 pixels.
    ("xception", 299, 22_855_952, 8_403.63e6),
    # Parameters: the authors' table of efficientnet-lite0. Products: Tan and Le 2019, table 2, EfficientNet-B0, which
    # has the same convolutions; the table of Hailo's model zoo has 0.39 billion for Lite0, too. The authors' says 407
    # million without saying what it counts.
    ("efficientnet_lite", 224, 4.7e6, 0.39e9),
]


def model(family: str, shape: tuple[int, ...] = (1, 8, 8), classes: int = 10, **args: Any) -> nn.Module:
    torch.manual_seed(0)
    return build(Architecture(family, args, shape, classes), "student")


def alive(module: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """In eval mode, with batch norms that differ from channel to channel."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.2)
            nn.init.normal_(layer.bias, 0.0, 0.3)
    with torch.no_grad():
        module.train()(torch.randn(16, *shape))
    return module.eval()


@pytest.mark.parametrize(("family", "side", "parameters", "products"), PUBLISHED, ids=[row[0] for row in PUBLISHED])
def test_parameters_and_products_are_the_published_ones(
    family: str, side: int, parameters: float, products: float
) -> None:
    student = model(family, (3, side, side), 1000)
    assert parameter_count(student) == pytest.approx(parameters, rel=0.02)
    assert macs(student, torch.zeros(1, 3, side, side)) == pytest.approx(products, rel=0.02)


def test_a_text_encoder_of_tinybert_has_the_published_parameters_and_products() -> None:
    """Jiao et al. 2020, table 1: 14.5 M parameters, 1.2 B operations, each product two of them, for 128 tokens."""
    proportions = {"layers": 4, "width": 312, "hidden": 1200, "heads": 12}
    assert parameter_count(text_encoder((512,), 2, 30522, **proportions)) == pytest.approx(14.5e6, rel=0.02)
    short = text_encoder((128,), 2, 30522, **proportions)
    assert round(2 * macs(short, torch.zeros(1, 128, dtype=torch.int32)) / 1e9, 1) == 1.2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 33, 17), (2, 49, 10)])
@pytest.mark.parametrize("stem_stride", [1, 2])
def test_any_input_size_gives_one_logit_a_class(family: str, shape: tuple[int, ...], stem_stride: int) -> None:
    student = model(family, shape, 5, width=0.25, stem_stride=stem_stride)
    assert student(torch.zeros(3, *shape)).shape == (3, 5)


@pytest.mark.parametrize("family", FAMILIES)
def test_width_multiplies_what_is_learned_and_computed(family: str) -> None:
    shape, counts = (3, 32, 32), []
    for width in (0.5, 1.0):
        student = model(family, shape, width=width)
        counts.append((parameter_count(student), macs(student, torch.zeros(1, *shape))))
    (learned, products), (more_learned, more_products) = counts
    assert 1.4 < more_learned / learned < 4.5
    assert 1.4 < more_products / products < 4.5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stem_that_does_not_stride_sees_four_times_as_much(family: str) -> None:
    strided_once, kept = (
        macs(model(family, (1, 64, 64), width=0.25, stem_stride=stride), torch.zeros(1, 1, 64, 64)) for stride in (2, 1)
    )
    assert 3 < kept / strided_once < 5


@pytest.mark.parametrize("family", FAMILIES)
def test_channels_at_an_odd_width_are_multiples_of_eight(family: str) -> None:
    student = model(family, (3, 32, 32), width=0.37)
    layers = [layer for layer in student.modules() if isinstance(layer, nn.Conv2d) and layer is not student.classifier]
    assert all(layer.out_channels % 8 == 0 for layer in layers)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_batch_norm_folds_and_changes_no_answer(family: str) -> None:
    shape = (1, 8, 8)
    student = alive(model(family, shape, width=0.25, stem_stride=1), shape)
    folded = fold_batch_norm(student, torch.zeros(1, *shape))
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    inputs = torch.randn(4, *shape)
    with torch.no_grad():
        torch.testing.assert_close(folded(inputs), student(inputs), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("width", [0, -1, float("nan"), float("inf"), "wide"])
def test_a_width_that_is_no_multiplier_is_refused(family: str, width: object) -> None:
    with pytest.raises(UsageError, match=family) as caught:
        model(family, width=width)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("wrong", [{"stem_stride": 0}, {"stem_stride": -1}, {"stem_stride": [1, 2, 3]}, {"widht": 1}])
def test_other_wrong_arguments_are_refused(family: str, wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=family) as caught:
        model(family, **wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_input_that_is_no_image_is_refused(family: str) -> None:
    with pytest.raises(UsageError, match=family) as caught:
        model(family, (12,))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("channels", "expected"), [(1, 8), (11.9, 16), (12, 16), (16, 16), (35, 32), (36, 40), (67, 64), (75, 72)]
)
def test_channels_round_to_eights_and_lose_less_than_a_tenth(channels: float, expected: int) -> None:
    assert rounded(channels) == expected


@pytest.mark.parametrize(
    ("sides", "stride", "expected"),
    [
        ((224, 224), 2, ((2, 2), (112, 112))),
        ((7, 4), 2, ((2, 2), (4, 2))),
        ((3, 2), 2, ((2, 1), (2, 2))),
        ((9, 1), (4, 2), ((4, 1), (3, 1))),
    ],
)
def test_a_stride_that_would_leave_one_pixel_is_left_out(
    sides: tuple[int, int], stride: int | tuple[int, int], expected: object
) -> None:
    assert strided(sides, stride) == expected


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 2, 9, 12), (1, 1, 2, 5)])
@pytest.mark.parametrize("stride", [(2, 2), (1, 2)])
def test_the_pool_is_a_max_pool_padded_with_nothing(shape: tuple[int, ...], stride: tuple[int, int]) -> None:
    inputs = torch.randn(shape) - 5
    assert torch.equal(MaxPool(stride)(inputs), nn.MaxPool2d(3, stride, 1)(inputs))


def test_a_shuffle_takes_channels_by_turns() -> None:
    left, right = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4)
    shuffled = shuffle(left, right)
    assert torch.equal(shuffled, nn.ChannelShuffle(2)(torch.cat([left, right], dim=1)))
    assert torch.equal(shuffled[:, 0::2], left)
    assert torch.equal(shuffled[:, 1::2], right)


def test_dropout_is_where_the_papers_have_it() -> None:
    for family in FAMILIES:
        shape = (1, 8, 8)
        rates = [layer.p for layer in model(family, shape).modules() if isinstance(layer, nn.Dropout)]
        expected = {"squeezenet": 0.5, "xception": 0.5, "mobilenet_v1": 0.0, "shufflenet_v2": 0.0}.get(family, 0.2)
        assert rates == [expected]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_example_of_a_family_is_an_image(family: str) -> None:
    architecture = Architecture(family, {"width": 0.25}, (2, 9, 14), 3)
    assert build(architecture, "student")(example_input(architecture)).shape == (1, 3)
