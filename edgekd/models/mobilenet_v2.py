"""MobileNetV2: inverted residuals with linear bottlenecks and ReLU6 (Sandler et al. 2018)."""

from collections.abc import Sequence

from torch import nn

from edgekd.models.layers import ConvNet, Stage, conv_bn_relu, inverted_residuals, scaler, strided

STEM, HEAD = 32, 1280
STAGES = (
    Stage(1, 3, 16, 1, 1),
    Stage(6, 3, 24, 2, 2),
    Stage(6, 3, 32, 3, 2),
    Stage(6, 3, 64, 4, 2),
    Stage(6, 3, 96, 3, 1),
    Stage(6, 3, 160, 3, 2),
    Stage(6, 3, 320, 1, 1),
)


def mobilenet_v2(
    input_shape: Sequence[int],
    classes: int,
    *,
    width: float = 1.0,
    stem_stride: int | Sequence[int] = 2,
    dropout: float = 0.2,
) -> ConvNet:
    """Build a MobileNetV2 for inputs of shape (channels, height, width); it returns logits, shape (N, classes).

    width: multiplies the channels of every layer, to multiples of 8; the last convolution keeps its 1280 where width
    is below 1. stem_stride: of the first convolution; 1 leaves more to see of a small input. A stride that would leave
    a side with one pixel is left out. Raises ValueError for a width that is not above 0.
    """
    scaled = scaler(width)
    channels, head = scaled(STEM), max(HEAD, scaled(HEAD))
    stride, sides = strided(input_shape[1:], stem_stride)
    stem = conv_bn_relu(input_shape[0], channels, 3, stride, activation=nn.ReLU6)
    blocks, channels = inverted_residuals(STAGES, channels, sides, scaled, nn.ReLU6)
    last = conv_bn_relu(channels, head, 1, activation=nn.ReLU6)
    return ConvNet([stem, *blocks, last], head, classes, dropout)
