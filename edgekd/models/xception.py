"""Xception: separable convolutions and shortcuts in an entry, a middle and an exit flow (Chollet 2017)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from edgekd.models.layers import ConvNet, MaxPool, conv_bn_relu, scaler, strided

STEM, ENTRY, EXIT = (32, 64), (128, 256, 728), (1024, 1536, 2048)


class Separable(nn.Module):
    """A depthwise and a pointwise convolution with nothing between them, and batch normalisation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
        self.pointwise = conv_bn_relu(inputs, outputs, 1, activation=None)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.pointwise(self.depthwise(inputs))
        return outputs


class Block(nn.Module):
    """Separable convolutions, each behind a ReLU, and a shortcut; with a stride it pools what comes out."""

    def __init__(self, channels: Sequence[int], stride: Sequence[int] | None = None, relu: bool = True) -> None:
        super().__init__()
        layers = [layer for pair in pairwise(channels) for layer in (nn.ReLU(), Separable(*pair))]
        pool = [MaxPool(stride)] if stride else []
        self.layers = nn.Sequential(*layers[0 if relu else 1 :], *pool)
        first, last = channels[0], channels[-1]
        self.shortcut = conv_bn_relu(first, last, 1, stride, activation=None) if stride else nn.Identity()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.layers(inputs) + self.shortcut(inputs)
        return outputs


def xception(
    input_shape: Sequence[int],
    classes: int,
    *,
    width: float = 1.0,
    middle: int = 8,
    stem_stride: int | Sequence[int] = 2,
    dropout: float = 0.5,
) -> ConvNet:
    """Build an Xception for inputs of shape (channels, height, width); it returns logits, shape (N, classes).

    width: multiplies the channels of every layer, to multiples of 8. middle: blocks of the middle flow; the paper's
    network is width 1 and middle 8, a small one is width 0.125 and middle 2. stem_stride: of the first convolution; 1
    leaves more to see of a small input. A stride that would leave a side with one pixel is left out. Raises ValueError
    for a width that is not above 0.
    """
    scaled = scaler(width)
    first, channels = (scaled(plain) for plain in STEM)
    stride, sides = strided(input_shape[1:], stem_stride)
    layers: list[nn.Module] = [conv_bn_relu(input_shape[0], first, 3, stride), conv_bn_relu(first, channels, 3)]
    for index, plain in enumerate(ENTRY):
        outputs = scaled(plain)
        stride, sides = strided(sides, 2)
        layers.append(Block((channels, outputs, outputs), stride, relu=index > 0))
        channels = outputs
    layers += [Block((channels,) * 4) for _ in range(middle)]
    outputs, wide, last = (scaled(plain) for plain in EXIT)
    stride, _ = strided(sides, 2)
    layers += [Block((channels, channels, outputs), stride), Separable(outputs, wide), nn.ReLU(), Separable(wide, last)]
    return ConvNet([*layers, nn.ReLU()], last, classes, dropout)
