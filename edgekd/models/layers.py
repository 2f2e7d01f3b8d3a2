"""Building blocks that the model families share, all of them friendly to BN folding and int8."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

DIVISOR = 8
LEAST = 0.9

Activation = Callable[[], nn.Module]


def conv_bn_relu(
    inputs: int,
    outputs: int,
    kernel: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    groups: int = 1,
    activation: Activation | None = nn.ReLU,
) -> nn.Sequential:
    """Convolution with "same" padding for odd kernels, batch normalisation, and ReLU or another activation."""
    size, step = _pair(kernel), _pair(stride)
    padding = (size[0] // 2, size[1] // 2)
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, size, step, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([activation()] if activation else []))


def rounded(channels: float) -> int:
    """To a multiple of eight, at least eight, and not more than a tenth below."""
    nearest = max(DIVISOR, int(channels + DIVISOR / 2) // DIVISOR * DIVISOR)
    return nearest if nearest >= LEAST * channels else nearest + DIVISOR


def scaler(width: float) -> Callable[[int], int]:
    """The channels of a layer times a width multiplier, as `rounded` has them; raises ValueError for no multiplier."""
    if not 0 < width < float("inf"):
        raise ValueError(f"width {width} is not a multiplier: give a number above 0, such as 0.5")
    return lambda channels: rounded(channels * width)


def strided(sides: Sequence[int], stride: int | Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Strides for a map of these sides, 1 along one that would be left with a single pixel, and the sides that remain.

    It is for layers with "same" padding. Raises ValueError for a stride below 1.
    """
    if min(_pair(stride)) < 1:
        raise ValueError(f"stride {stride} is not a number of pixels: give 1 or more")
    steps = tuple(step if side > step else 1 for side, step in zip(sides, _pair(stride), strict=True))
    left = tuple((side - 1) // step + 1 for side, step in zip(sides, steps, strict=True))
    return _pair(steps), _pair(left)


def mean(maps: torch.Tensor) -> torch.Tensor:
    """The mean of each channel, shape (N, channels)."""
    return torch.flatten(F.adaptive_avg_pool2d(maps, 1), 1)


def keep_variance(module: nn.Module) -> None:
    """Draw the weights of all convolutions so that numbers neither grow nor vanish with depth (He et al. 2015)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


class MaxPool(nn.Module):
    """The largest of 3x3 numbers: nn.MaxPool2d(3, stride, 1), for whose padding runtimes have no int8 kernel.

    The border is repeated instead, which changes nothing: the windows there see these numbers anyway.
    """

    def __init__(self, stride: int | Sequence[int]) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(3, _pair(stride))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        tall = torch.cat([inputs[:, :, :1], inputs, inputs[:, :, -1:]], dim=2)
        outputs: torch.Tensor = self.pool(torch.cat([tall[..., :1], tall, tall[..., -1:]], dim=3))
        return outputs


class SqueezeExcite(nn.Module):
    """Each channel times a gate of 0 to 1 that is computed from the means of all (Hu et al. 2018).

    Its two layers are linear ones on rows, which is the same as 1x1 convolutions of a map of one pixel: the quantizer
    leaves the latter float.
    """

    def __init__(self, channels: int, squeezed: int, gate: Activation) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(channels, squeezed), nn.Linear(squeezed, channels)
        self.relu, self.gate = nn.ReLU(), gate()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        gates: torch.Tensor = self.gate(self.excite(self.relu(self.squeeze(mean(inputs)))))
        return inputs * gates[..., None, None]


class InvertedResidual(nn.Module):
    """Expand, filter each channel, gate, project; the input is added where the shape stays (Sandler et al. 2018).

    inner: channels between the expansion and the projection, or None for no expansion. gate: squeeze-and-excite for
    that many channels.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int | Sequence[int],
        inner: int | None,
        activation: Activation,
        gate: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        middle = inner or inputs
        self.layers = nn.Sequential(
            *([conv_bn_relu(inputs, middle, 1, activation=activation)] if inner else []),
            conv_bn_relu(middle, middle, kernel, stride, middle, activation),
            *([gate(middle)] if gate else []),
            conv_bn_relu(middle, outputs, 1, activation=None),
        )
        self.added = inputs == outputs and _pair(stride) == (1, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.layers(inputs)
        return inputs + outputs if self.added else outputs


class Stage(NamedTuple):
    """Inverted residuals in a row. channels: that come out, before the width multiplier. stride: of the first block.
    gated: with squeeze-and-excite to a quarter of what comes in.
    """

    expansion: int
    kernel: int
    channels: int
    blocks: int
    stride: int
    gated: bool = False


def inverted_residuals(
    stages: Sequence[Stage],
    channels: int,
    sides: Sequence[int],
    scaled: Callable[[int], int],
    activation: Activation = nn.ReLU,
) -> tuple[list[nn.Module], int]:
    """The blocks of all stages for maps of so many channels and these sides, and how many channels come out."""
    blocks: list[nn.Module] = []
    for stage in stages:
        outputs = scaled(stage.channels)
        for block in range(stage.blocks):
            stride, sides = strided(sides, stage.stride if block == 0 else 1)
            inner = channels * stage.expansion if stage.expansion > 1 else None
            gate = partial(SqueezeExcite, squeezed=channels // 4, gate=nn.Sigmoid) if stage.gated else None
            blocks.append(InvertedResidual(channels, outputs, stage.kernel, stride, inner, activation, gate))
            channels = outputs
    return blocks, channels


class ConvNet(nn.Module):
    """Layers on a map, the mean over it, perhaps a hidden layer, dropout, and one linear layer."""

    def __init__(
        self,
        layers: Sequence[nn.Module],
        channels: int,
        classes: int,
        dropout: float = 0.0,
        hidden: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.hidden = nn.Sequential(*hidden)
        self.dropout, self.classifier = nn.Dropout(dropout), nn.Linear(channels, classes)
        keep_variance(self)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.dropout(self.hidden(mean(self.layers(inputs)))))
        return logits


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return first, second
