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
    size = (kernel, kernel) if isinstance(kernel, int) else tuple(kernel)
    step = stride if isinstance(stride, int) else tuple(stride)
    padding = tuple(side // 2 for side in size)
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, size, step, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([nn.ReLU()] if relu else []))
