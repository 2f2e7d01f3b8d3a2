"""MobileNetV1: a stack of depthwise-separable convolutions (Howard et al. 2017)."""

from collections.abc import Sequence

from torch import nn

from edgekd.models.layers import ConvNet, conv_bn_relu, scaler, strided

STEM = 32
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
"""Channels and stride."""


def mobilenet_v1(
    input_shape: Sequence[int], classes: int, *, width: float = 1.0, stem_stride: int | Sequence[int] = 2
) -> ConvNet:
    """Build a MobileNetV1 for inputs of shape (channels, height, width); it returns logits, shape (N, classes).

    width: multiplies the channels of every layer, to multiples of 8. stem_stride: of the first convolution; 1 leaves
    more to see of a small input. A stride that would leave a side with one pixel is left out. Raises ValueError for a
    width that is not above 0.
    """
    scaled = scaler(width)
    channels = scaled(STEM)
    stride, sides = strided(input_shape[1:], stem_stride)
    layers = [conv_bn_relu(input_shape[0], channels, 3, stride)]
    for plain, wanted in BLOCKS:
        outputs = scaled(plain)
        stride, sides = strided(sides, wanted)
        filtered = conv_bn_relu(channels, channels, 3, stride, groups=channels)
        layers.append(nn.Sequential(filtered, conv_bn_relu(channels, outputs, 1)))
        channels = outputs
    return ConvNet(layers, channels, classes)
