"""Folding named losses into the one number that is minimised."""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import torch
from torch import nn

from edgekd.distill.schedules import Number, at
from edgekd.errors import UsageError


class Balance(Protocol):
    """The scalar losses of a batch, by name, and the training's progress, 0 to 1, to one scalar.

    A balance that learns or remembers is a module: its parameters and its state go with the distiller's.
    """

    def __call__(self, parts: Mapping[str, torch.Tensor], progress: float = 0.0) -> torch.Tensor: ...


def weighted(weights: Mapping[str, Number]) -> Balance:
    """The sum of weight times loss, by name; weights may be annealed.

    Raises UsageError if, at the start or at the end of training, a weight is negative; or if all are zero at both.
    """
    ends = [{name: at(weight, progress) for name, weight in weights.items()} for progress in (0.0, 1.0)]
    if any(weight < 0 for end in ends for weight in end.values()) or not any(any(end.values()) for end in ends):
        raise UsageError(f"loss weights {ends[0]}: none may be negative and one must be positive")

    def fold(parts: Mapping[str, torch.Tensor], progress: float = 0.0) -> torch.Tensor:
        _require_known(parts, weights)
        return torch.stack([at(weights[name], progress) * value for name, value in parts.items()]).sum()

    return fold


def two_stage(weights: Mapping[str, Number], first: Collection[str], switch: float = 0.5) -> Balance:
    """The losses in `first` until the share `switch` of the training is done, the others from then on.

    The stages of FitNets (Romero et al. 2014, algorithm 1): learn from the teacher first, then the task.
    Raises UsageError if a stage has no positive weight, or one is negative.
    """
    stages = [{name: weight for name, weight in weights.items() if (name in first) == early} for early in (True, False)]
    if not all(stages):
        raise UsageError("two stages need a loss over the teacher for the first and one of the labels for the second")
    for stage in stages:
        weighted(stage)

    def fold(parts: Mapping[str, torch.Tensor], progress: float = 0.0) -> torch.Tensor:
        _require_known(parts, weights)
        early = progress < switch
        stage = {name: at(weight, progress) if (name in first) == early else 0.0 for name, weight in weights.items()}
        return torch.stack([stage[name] * value for name, value in parts.items()]).sum()

    return fold


class Uncertainty(nn.Module):
    """sum_i exp(-s_i) loss_i + s_i / 2 with learned s_i = log sigma_i² (Kendall et al. 2018, equation 10).

    It starts at the given weights, exp(-s_i) = weight_i, and tends to exp(s_i) = 2 loss_i: a loss that stays large
    counts less. The form is the paper's for classification; for a squared error it has 1/2 before the loss, which is
    a start at half the weight. Progress is not looked at.

    Raises UsageError for a weight that is not positive.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        if not weights or any(weight <= 0 for weight in weights.values()):
            raise UsageError(f"loss weights {dict(weights)}: learned weights start from positive ones")
        self.names = tuple(weights)
        self.log_variances = nn.Parameter(torch.tensor([-math.log(weight) for weight in weights.values()]))

    def forward(self, parts: Mapping[str, torch.Tensor], progress: float = 0.0) -> torch.Tensor:
        _require_known(parts, self.names)
        log_variances = self.log_variances[[self.names.index(name) for name in parts]]
        return (torch.exp(-log_variances) * torch.stack(list(parts.values())) + log_variances / 2).sum()


class DynamicAverage(nn.Module):
    """sum_i weight_i lambda_i loss_i: what falls slowly counts more (dynamic weight averaging, Liu et al. 2019, eq. 7).

    lambda = K softmax(r / T) over the K losses, r_i the mean of loss i in the last epoch divided by that in the one
    before; 1 in the first two epochs, and r_i = 1 where the mean before was 0. Every batch with gradients counts for
    its epoch's mean; `end_epoch` closes it. The means are in the state of the module. Progress is not looked at.

    Raises UsageError as `weighted` does, and for a temperature T that is not positive.
    """

    def __init__(self, weights: Mapping[str, float], temperature: float = 2.0) -> None:
        super().__init__()
        weighted(weights)
        if temperature <= 0:
            raise UsageError(f"dynamic average: temperature {temperature:g} is not positive")
        self.weights, self.temperature = dict(weights), temperature
        self._means = torch.tensor([[math.nan], [math.nan], [0.0], [0.0]]).repeat(1, len(weights))
        """The means of the epoch before the last and of the last, the sums of this one, and its batches: no buffer,
        since data-parallel training would overwrite a process's own sums with those of the first."""

    def forward(self, parts: Mapping[str, torch.Tensor], progress: float = 0.0) -> torch.Tensor:
        if parts.keys() != self.weights.keys():
            raise UsageError(f"losses {', '.join(parts)}: weights are given for {', '.join(self.weights)}")
        values = torch.stack([parts[name] for name in self.weights])
        self._means = self._means.to(values.device)
        if torch.is_grad_enabled():
            self._means[2] += values.detach()
            self._means[3] += 1
        return (values * self.lambdas() * values.new_tensor(list(self.weights.values()))).sum()

    def lambdas(self) -> torch.Tensor:
        """What each loss is multiplied with in this epoch, before its weight, shape (losses,)."""
        before, last = self._means[:2]
        ratios = torch.where(before > 0, last / before, torch.ones_like(last))
        return len(ratios) * torch.softmax(ratios / self.temperature, dim=0)

    def end_epoch(self, total: Callable[[torch.Tensor], torch.Tensor] = torch.clone) -> None:
        """Close the epoch. With several processes, `total` gives the sum of a tensor over all of them."""
        _, last, *epoch = self._means
        sums, batches = total(torch.stack(epoch))
        if batches.any():
            self._means = torch.stack([last, sums / batches, torch.zeros_like(sums), torch.zeros_like(sums)])

    def get_extra_state(self) -> torch.Tensor:
        return self._means

    def set_extra_state(self, state: torch.Tensor) -> None:
        self._means = state.clone()


def _require_known(parts: Mapping[str, torch.Tensor], weights: Collection[str]) -> None:
    for name in parts.keys() - set(weights):
        raise UsageError(f"loss '{name}' has no weight; weights are given for {', '.join(weights)}")
