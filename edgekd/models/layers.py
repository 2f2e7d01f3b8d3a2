"""Building blocks that the model families share, all of them friendly to BN folding and int8."""

from collections.abc import Sequence

from torch import nn


def conv_bn_relu(
    inputs: int,
    outputs: int,
    kernel: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    groups: int = 1,
    relu: bool = True,
) -> nn.Sequential:
    """Convolution with "same" padding for odd kernels, batch normalisation, and ReLU."""
    size, step = _pair(kernel), _pair(stride)
    padding = (size[0] // 2, size[1] // 2)
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, size, step, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([nn.ReLU()] if relu else []))


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int) else value
    return height, width
