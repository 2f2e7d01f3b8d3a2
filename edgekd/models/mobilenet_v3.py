"""MobileNetV3-Small: inverted residuals with squeeze-and-excite and hard-swish (Howard et al. 2019)."""

from collections.abc import Sequence

from torch import nn

from edgekd.models.layers import ConvNet, InvertedResidual, SqueezeExcite, conv_bn_relu, rounded, scaler, strided

STEM, LAST, HIDDEN = 16, 576, 1024
BLOCKS = (
    (3, None, 16, True, nn.ReLU, 2),
    (3, 72, 24, False, nn.ReLU, 2),
    (3, 88, 24, False, nn.ReLU, 1),
    (5, 96, 40, True, nn.Hardswish, 2),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 120, 48, True, nn.Hardswish, 1),
    (5, 144, 48, True, nn.Hardswish, 1),
    (5, 288, 96, True, nn.Hardswish, 2),
    (5, 576, 96, True, nn.Hardswish, 1),
    (5, 576, 96, True, nn.Hardswish, 1),
)
"""Kernel, expanded channels, channels, squeeze-and-excite, activation, stride."""


def mobilenet_v3(
    input_shape: Sequence[int],
    classes: int,
    *,
    width: float = 1.0,
    stem_stride: int | Sequence[int] = 2,
    dropout: float = 0.2,
) -> ConvNet:
    """Build a MobileNetV3-Small for inputs of shape (channels, height, width); it returns logits, shape (N, classes).

    width: multiplies the channels of every layer, to multiples of 8; the hidden layer before the last keeps its 1024
    where width is below 1. stem_stride: of the first convolution; 1 leaves more to see of a small input. A stride that
    would leave a side with one pixel is left out. Raises ValueError for a width that is not above 0.
    """
    scaled = scaler(width)
    channels, last, hidden = scaled(STEM), scaled(LAST), max(HIDDEN, scaled(HIDDEN))
    stride, sides = strided(input_shape[1:], stem_stride)
    layers: list[nn.Module] = [conv_bn_relu(input_shape[0], channels, 3, stride, activation=nn.Hardswish)]
    for kernel, expanded, plain, gated, activation, wanted in BLOCKS:
        stride, sides = strided(sides, wanted)
        outputs, inner = scaled(plain), scaled(expanded) if expanded else None
        gate = _gate if gated else None
        layers.append(InvertedResidual(channels, outputs, kernel, stride, inner, activation, gate))
        channels = outputs
    layers.append(conv_bn_relu(channels, last, 1, activation=nn.Hardswish))
    return ConvNet(layers, hidden, classes, dropout, hidden=[nn.Linear(last, hidden), nn.Hardswish()])


def _gate(channels: int) -> SqueezeExcite:
    return SqueezeExcite(channels, rounded(channels / 4), nn.Hardsigmoid)
