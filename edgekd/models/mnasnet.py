"""MnasNet-A1: inverted residuals that a search on a phone has found (Tan et al. 2019)."""

from collections.abc import Sequence
from functools import partial

from torch import nn

from edgekd.models.layers import ConvNet, InvertedResidual, SqueezeExcite, conv_bn_relu, scaler, strided

STEM, HEAD = 32, 1280
STAGES = (
    (1, 3, 16, 1, 1, False),
    (6, 3, 24, 2, 2, False),
    (3, 5, 40, 3, 2, True),
    (6, 3, 80, 4, 2, False),
    (6, 3, 112, 2, 1, True),
    (6, 5, 160, 3, 2, True),
    (6, 3, 320, 1, 1, False),
)
"""Expansion, kernel, channels, blocks, the stride of the first block, squeeze-and-excite."""


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
    layers: list[nn.Module] = [conv_bn_relu(input_shape[0], channels, 3, stride)]
    for expansion, kernel, plain, blocks, first, gated in STAGES:
        for block in range(blocks):
            outputs = scaled(plain)
            stride, sides = strided(sides, first if block == 0 else 1)
            inner = channels * expansion if expansion > 1 else None
            gate = partial(SqueezeExcite, squeezed=channels // 4, gate=nn.Sigmoid) if gated else None
            layers.append(InvertedResidual(channels, outputs, kernel, stride, inner, nn.ReLU, gate))
            channels = outputs
    layers.append(conv_bn_relu(channels, HEAD, 1))
    return ConvNet(layers, HEAD, classes, dropout)
