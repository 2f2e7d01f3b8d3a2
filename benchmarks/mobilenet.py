"""MobileNetV2 (Sandler et al. 2018): inverted residuals with linear bottlenecks and ReLU6."""

import torch
from torch import nn

STEM, HEAD = 32, 1280
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks, and the stride of the first block."""


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; the input is added where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.layers = nn.Sequential(
            *(_convolution(inputs, inner, 1) if expansion > 1 else ()),
            *_convolution(inner, inner, 3, stride, groups=inner),
            *_convolution(inner, outputs, 1, relu=False),
        )
        self.added = inputs == outputs and stride == 1

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.layers(inputs)
        return inputs + outputs if self.added else outputs


def mobilenet(classes: int, *, width: float) -> nn.Module:
    """For images of three channels; returns logits, shape (N, classes)."""
    channels = _rounded(STEM * width)
    layers: list[nn.Module] = [*_convolution(3, channels, 3, stride=2)]
    for expansion, outputs, blocks, stride in STAGES:
        for block in range(blocks):
            scaled = _rounded(outputs * width)
            layers.append(InvertedResidual(channels, scaled, stride if block == 0 else 1, expansion))
            channels = scaled
    head = [*_convolution(channels, HEAD, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(HEAD, classes)]
    return nn.Sequential(*layers, *head)


def _convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True
) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), *([nn.ReLU6()] if relu else [])]


def _rounded(channels: float) -> int:
    """To a multiple of eight, at least eight, and not more than a tenth below."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8
