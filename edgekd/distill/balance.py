"""Folding named losses into the one number that is minimised."""

from collections.abc import Callable, Mapping

import torch

from edgekd.errors import UsageError

Balance = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]


def weighted(weights: Mapping[str, float]) -> Balance:
    """The sum of weight times loss, by name.

    Raises UsageError if no weight is positive or one is negative.
    """
    if any(weight < 0 for weight in weights.values()) or not any(weights.values()):
        raise UsageError(f"loss weights {dict(weights)}: none may be negative and one must be positive")

    def fold(parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        for name in parts.keys() - weights.keys():
            raise UsageError(f"loss '{name}' has no weight; weights are given for {', '.join(weights)}")
        return torch.stack([weights[name] * value for name, value in parts.items()]).sum()

    return fold
