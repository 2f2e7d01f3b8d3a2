"""Batch normalisation over a batch that several processes share."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Total(torch.autograd.Function):
    """The sum of a tensor over all processes; so is its gradient."""

    @staticmethod
    def forward(context: Any, values: torch.Tensor) -> torch.Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total


def _total(values: torch.Tensor) -> torch.Tensor:
    summed: torch.Tensor = _Total.apply(values)  # type: ignore[no-untyped-call]
    return summed


@contextmanager
def shared(model: nn.Module, processes: int) -> Iterator[None]:
    """While the context lasts, batch normalisation in training takes its statistics from the batches of all processes.

    Like torch's SyncBatchNorm, which is for GPUs only, and without a change of the model's layers.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)] if processes > 1 else []
    for layer in layers:
        layer.forward = partial(_normalise, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _normalise(layer: _BatchNorm, inputs: torch.Tensor) -> torch.Tensor:
    if not layer.training:
        return type(layer).forward(layer, inputs)
    values = inputs.float()
    axes = [axis for axis in range(values.ndim) if axis != 1]
    count = _total(values.new_tensor(values.numel() / values.shape[1]))
    mean = _total(values.sum(dim=axes)) / count
    shape = [-1 if axis == 1 else 1 for axis in range(values.ndim)]
    centred = values - mean.view(shape)
    variance = _total(centred.square().sum(dim=axes)) / count
    _remember(layer, mean.detach(), (variance * count / (count - 1).clamp(min=1)).detach())
    normal = centred * (variance + layer.eps).rsqrt().view(shape)
    if layer.weight is not None:
        normal = normal * layer.weight.view(shape) + layer.bias.view(shape)
    outputs: torch.Tensor = normal.to(inputs.dtype)
    return outputs


@torch.no_grad()
def _remember(layer: _BatchNorm, mean: torch.Tensor, variance: torch.Tensor) -> None:
    """The running statistics, as torch keeps them: with the variance that divides by one less."""
    if layer.running_mean is None or layer.running_var is None or layer.num_batches_tracked is None:
        return
    layer.num_batches_tracked.add_(1)
    momentum = layer.momentum if layer.momentum is not None else 1.0 / float(layer.num_batches_tracked)
    layer.running_mean.lerp_(mean, momentum)
    layer.running_var.lerp_(variance, momentum)
