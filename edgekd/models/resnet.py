"""A small ResNet (He et al. 2015, basic blocks), the reference teacher for small images and spectrograms."""

from collections.abc import Sequence

import torch
from torch import nn

from edgekd.models.layers import conv_bn_relu


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = conv_bn_relu(inputs, outputs, 3, stride)
        self.second = conv_bn_relu(outputs, outputs, 3, activation=None)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else conv_bn_relu(inputs, outputs, 1, stride, activation=None)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.second(self.first(inputs)) + self.shortcut(inputs))


class ResNet(nn.Module):
    """A 3x3 stem and stages of basic blocks; each stage after the first halves the map and doubles the width."""

    def __init__(
        self, input_shape: Sequence[int], classes: int, width: int, blocks: Sequence[int], stem_stride: int
    ) -> None:
        super().__init__()
        self.stem = conv_bn_relu(input_shape[0], width, 3, stem_stride)
        layers: list[nn.Module] = []
        channels = width
        for stage, count in enumerate(blocks):
            for index in range(count):
                outputs = width * 2**stage
                layers.append(BasicBlock(channels, outputs, 2 if stage > 0 and index == 0 else 1))
                channels = outputs
        self.blocks = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(torch.flatten(self.pool(self.blocks(self.stem(inputs))), 1))
        return logits


def resnet(
    input_shape: Sequence[int],
    classes: int,
    *,
    width: int = 16,
    blocks: Sequence[int] = (1, 1, 1),
    stem_stride: int = 1,
) -> ResNet:
    """Build a ResNet for inputs of shape (channels, height, width); it returns logits, shape (N, classes).

    Width 16 with one block in each of three stages is the ResNet-8 of MLPerf Tiny.
    """
    return ResNet(input_shape, classes, width, blocks, stem_stride)
