"""MnasNet-A1: inverted residuals that a search on a phone has found (Tan et al. 2019)."""

from collections.abc import Sequence

from edgekd.models.layers import ConvNet, Stage, conv_bn_relu, inverted_residuals, scaler, strided

STEM, HEAD = 32, 1280
STAGES = (
    Stage(1, 3, 16, 1, 1),
    Stage(6, 3, 24, 2, 2),
    Stage(3, 5, 40, 3, 2, True),
    Stage(6, 3, 80, 4, 2),
    Stage(6, 3, 112, 2, 1, True),
    Stage(6, 5, 160, 3, 2, True),
    Stage(6, 3, 320, 1, 1),
)


def mnasnet(
    input_shape: Sequence[int],
    classes: int,
    *,
    width: float = 1.0,
    stem_stride: int | Sequence[int] = 2,
    dropout: float = 0.2,
) -> ConvNet:
    """Build a MnasNet-A1 for inputs of shape (channels, height, width); it returns logits, shape (N, classes).

    width: multiplies the channels of every layer but the last convolution, to multiples of 8. stem_stride: of the
    first convolution; 1 leaves more to see of a small input. A stride that would leave a side with one pixel is left
    out. Raises ValueError for a width that is not above 0.
    """
    scaled = scaler(width)
    channels = scaled(STEM)
    stride, sides = strided(input_shape[1:], stem_stride)
    stem = conv_bn_relu(input_shape[0], channels, 3, stride)
    blocks, channels = inverted_residuals(STAGES, channels, sides, scaled)
    last = conv_bn_relu(channels, HEAD, 1)
    return ConvNet([stem, *blocks, last], HEAD, classes, dropout)
