"""SqueezeNet 1.1: fire modules, which squeeze and expand the channels (Iandola et al. 2016)."""

from collections.abc import Sequence

import torch
from torch import nn

from edgekd.models.layers import keep_variance, mean, scaler, strided

STEM, WINDOW = 64, 3
STAGES = ((16, 64, 2), (32, 128, 2), (48, 192, 2), (64, 256, 2))
"""Channels of the squeeze, of each half of the expansion, and fire modules."""
POOLED = (True, True, True, False)
"""Is the map halved before this stage?"""


class Fire(nn.Module):
    """A squeeze and two expansions side by side."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Conv2d(inputs, squeezed, 1), nn.ReLU())
        self.narrow = nn.Sequential(nn.Conv2d(squeezed, expanded, 1), nn.ReLU())
        self.wide = nn.Sequential(nn.Conv2d(squeezed, expanded, 3, padding=1), nn.ReLU())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        squeezed = self.squeeze(inputs)
        return torch.cat([self.narrow(squeezed), self.wide(squeezed)], dim=1)


class SqueezeNet(nn.Module):
    """A stem, fire modules with pools between them, and a convolution to classes whose mean is the answer."""

    def __init__(self, layers: Sequence[nn.Module], channels: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.layers, self.dropout = nn.Sequential(*layers), nn.Dropout(dropout)
        self.classifier, self.relu = nn.Conv2d(channels, classes, 1), nn.ReLU()
        keep_variance(self)
        nn.init.normal_(self.classifier.weight, std=0.01)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return mean(self.relu(self.classifier(self.dropout(self.layers(inputs)))))


def squeezenet(
    input_shape: Sequence[int],
    classes: int,
    *,
    width: float = 1.0,
    stem_stride: int | Sequence[int] = 2,
    dropout: float = 0.5,
) -> SqueezeNet:
    """Build a SqueezeNet 1.1 for inputs of shape (channels, height, width); it returns logits, shape (N, classes).

    There is no batch norm in it. width: multiplies the channels of every layer, to multiples of 8. stem_stride: of the
    first convolution; 1 leaves more to see of a small input. A side that a pool would leave with one pixel is not
    pooled. Raises ValueError for a width that is not above 0.
    """
    scaled = scaler(width)
    channels = scaled(STEM)
    step, _ = strided(input_shape[1:], stem_stride)
    stem = nn.Conv2d(input_shape[0], channels, WINDOW, step)
    tall, wide = ((side - WINDOW) // size + 1 for side, size in zip(input_shape[1:], step, strict=True))
    layers: list[nn.Module] = [stem, nn.ReLU()]
    for (squeezed, expanded, fires), pooled in zip(STAGES, POOLED, strict=True):
        if pooled:
            window = _window(tall), _window(wide)
            layers.append(nn.MaxPool2d(window, (min(window[0], 2), min(window[1], 2))))
            tall, wide = (((side - size) // min(size, 2)) + 1 for side, size in ((tall, window[0]), (wide, window[1])))
        for _ in range(fires):
            layers.append(Fire(channels, scaled(squeezed), scaled(expanded)))
            channels = 2 * scaled(expanded)
    return SqueezeNet(layers, channels, classes, dropout)


def _window(side: int) -> int:
    """Of a pool along a side; 1 where a larger one would leave a single pixel."""
    return WINDOW if side > WINDOW + 1 else 1
