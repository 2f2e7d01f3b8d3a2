"""EfficientNet-Lite0: EfficientNet-B0 (Tan and Le 2019) without squeeze-and-excite, with ReLU6 instead of swish."""

from collections.abc import Sequence

from torch import nn

from edgekd.models.layers import ConvNet, Stage, conv_bn_relu, inverted_residuals, scaler, strided

STEM, HEAD = 32, 1280
STAGES = (
    Stage(1, 3, 16, 1, 1),
    Stage(6, 3, 24, 2, 2),
    Stage(6, 5, 40, 2, 2),
    Stage(6, 3, 80, 3, 2),
    Stage(6, 5, 112, 3, 1),
    Stage(6, 5, 192, 4, 2),
    Stage(6, 3, 320, 1, 1),
)


def efficientnet_lite(
    input_shape: Sequence[int],
    classes: int,
    *,
    width: float = 1.0,
    stem_stride: int | Sequence[int] = 2,
    dropout: float = 0.2,
) -> ConvNet:
    """Build an EfficientNet-Lite0 for inputs of shape (channels, height, width); it returns logits, shape (N, classes).

    width: multiplies the channels between the first and the last convolution, to multiples of 8; these two keep theirs,
    32 and 1280. stem_stride: of the first convolution; 1 leaves more to see of a small input. A stride that would leave
    a side with one pixel is left out. Raises ValueError for a width that is not above 0.
    """
    scaled = scaler(width)
    channels = STEM
    stride, sides = strided(input_shape[1:], stem_stride)
    stem = conv_bn_relu(input_shape[0], channels, 3, stride, activation=nn.ReLU6)
    blocks, channels = inverted_residuals(STAGES, channels, sides, scaled, nn.ReLU6)
    last = conv_bn_relu(channels, HEAD, 1, activation=nn.ReLU6)
    return ConvNet([stem, *blocks, last], HEAD, classes, dropout)
