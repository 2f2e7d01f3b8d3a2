"""The exponential moving average of a model's weights (Polyak & Juditsky 1992, with a decay)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

Weights = dict[str, torch.Tensor]


def weights_of(model: nn.Module) -> Weights:
    """Parameters and buffers by name: the model's own tensors, no copies."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}


def copy_of(weights: Mapping[str, torch.Tensor]) -> Weights:
    return {name: value.detach().clone() for name, value in weights.items()}


@torch.no_grad()
def update(average: Weights, model: nn.Module, decay: float) -> None:
    """average = decay average + (1 - decay) weights; whole numbers, such as counts of batches, are taken over."""
    for name, value in weights_of(model).items():
        if value.is_floating_point():
            average[name].lerp_(value, 1.0 - decay)
        else:
            average[name].copy_(value)


@contextmanager
def averaged(model: nn.Module, average: Weights | None) -> Iterator[None]:
    """While the context lasts, the model has the averaged weights, where there are any."""
    if average is None:
        yield
        return
    own = copy_of(weights_of(model))
    model.load_state_dict(average, strict=False)
    try:
        yield
    finally:
        model.load_state_dict(own, strict=False)
