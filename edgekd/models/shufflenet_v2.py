"""ShuffleNetV2: half of the channels pass a block by, and a shuffle mixes the halves (Ma et al. 2018)."""

from collections.abc import Sequence

import torch
from torch import nn

from edgekd.models.layers import ConvNet, MaxPool, conv_bn_relu, scaler, strided

STEM, HALF, BLOCKS, HEAD = 24, 58, (4, 8, 4), 1024
PUBLISHED = {0.5: (24, 1024), 1.0: (58, 1024), 1.5: (88, 1024), 2.0: (122, 2048)}
"""Width -> half of the channels of the first stage, and the channels of the last convolution."""


class Unit(nn.Module):
    """A branch on half of the channels, or, not split, two branches on all of them; the results take turns."""

    def __init__(self, inputs: int, half: int, split: bool, stride: Sequence[int]) -> None:
        super().__init__()
        self.split = split
        self.shortcut = (
            nn.Identity()
            if self.split
            else nn.Sequential(
                conv_bn_relu(inputs, inputs, 3, stride, groups=inputs, activation=None), conv_bn_relu(inputs, half, 1)
            )
        )
        self.branch = nn.Sequential(
            conv_bn_relu(half if self.split else inputs, half, 1),
            conv_bn_relu(half, half, 3, stride, groups=half, activation=None),
            conv_bn_relu(half, half, 1),
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        left, right = inputs.chunk(2, dim=1) if self.split else (inputs, inputs)
        return shuffle(self.shortcut(left), self.branch(right))


def shuffle(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The channels of two maps by turns: a concatenation and a shuffle of two groups.

    It is written channels last, where a runtime needs one transpose for it and not three.
    """
    maps = torch.cat([left, right], dim=1).permute(0, 2, 3, 1)
    count, height, width, _ = maps.shape
    turned = maps.reshape(count, height, width, 2, -1).transpose(3, 4)
    return turned.reshape(count, height, width, -1).permute(0, 3, 1, 2)


def shufflenet_v2(
    input_shape: Sequence[int], classes: int, *, width: float = 1.0, stem_stride: int | Sequence[int] = 2
) -> ConvNet:
    """Build a ShuffleNetV2 for inputs of shape (channels, height, width); it returns logits, shape (N, classes).

    width: at 0.5, 1, 1.5 and 2 the published channels; any other multiplies half of a stage's channels, to multiples of
    8. The first convolution always has 24. stem_stride: of the first convolution; 1 leaves more to see of a small
    input. A stride that would leave a side with one pixel is left out. Raises ValueError for a width that is not above
    0.
    """
    half, head = PUBLISHED.get(width) or (scaler(width)(HALF), HEAD)
    stride, sides = strided(input_shape[1:], stem_stride)
    pooled, sides = strided(sides, 2)
    layers: list[nn.Module] = [conv_bn_relu(input_shape[0], STEM, 3, stride), MaxPool(pooled)]
    channels = STEM
    for stage, blocks in enumerate(BLOCKS):
        for block in range(blocks):
            stride, sides = strided(sides, 2 if block == 0 else 1)
            layers.append(Unit(channels, half * 2**stage, block > 0, stride))
            channels = 2 * half * 2**stage
    layers.append(conv_bn_relu(channels, head, 1))
    return ConvNet(layers, head, classes)
