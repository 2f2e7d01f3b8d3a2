"""What a loss is: a function of what one batch offers, and what it needs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from edgekd.errors import UsageError

UNLABELLED = -1
"""The label of a sample, or of one entry of a multi-label sample, that nobody labelled. Regression has NaN for it."""


@dataclass(frozen=True)
class Signals:
    """What one batch offers to a loss.

    student, teacher: outputs, float, (N, classes): logits, or the numbers of a regression; teacher is None where
    nobody asked for it.
    labels: class indices, int64, (N,), UNLABELLED where there is none. Multi-label: 0, 1 or UNLABELLED, (N, classes).
    Regression: float, shaped like the outputs, NaN where there is none.
    student_taps, teacher_taps: outputs of tapped layers, by module path.
    progress: share of the training that is done, 0 to 1, for what is annealed.
    labelled: where the batch is one of several parts of a larger one, labels to a sample in the larger one: a mean over
    labels divides by this times the samples of the part, so that the mean of the parts, weighted by their samples, is
    that of the larger one.
    learned: the module that the loss itself built (`Loss.build`).
    """

    student: torch.Tensor
    labels: torch.Tensor
    teacher: torch.Tensor | None = None
    student_taps: Mapping[str, torch.Tensor] = field(default_factory=dict)
    teacher_taps: Mapping[str, torch.Tensor] = field(default_factory=dict)
    progress: float = 0.0
    labelled: float | None = None
    learned: nn.Module | None = None


@dataclass(frozen=True)
class Loss:
    """A function Signals -> scalar, and what it needs: the teacher's outputs, or layers of either model.

    build: makes the loss's own module from a first batch, whose shapes it takes; from then on the module comes with
    the signals, and its parameters are trained along with the student.
    rival: what parts of that module minimise for themselves, against the student. It sends no gradient to the student.
    """

    compute: Callable[[Signals], torch.Tensor]
    needs_teacher: bool = False
    student_taps: tuple[str, ...] = ()
    teacher_taps: tuple[str, ...] = ()
    build: Callable[[Signals], nn.Module] | None = None
    rival: Callable[[Signals], torch.Tensor] | None = None

    @property
    def looks_at_teacher(self) -> bool:
        return self.needs_teacher or bool(self.teacher_taps)


def both_outputs(signals: Signals) -> tuple[torch.Tensor, torch.Tensor]:
    """The student's and the teacher's outputs; raises UsageError if their shapes differ."""
    assert signals.teacher is not None
    require_same_shape(signals.student, signals.teacher, "the student's outputs", "the teacher's outputs")
    return signals.student, signals.teacher


def require_same_shape(one: torch.Tensor, other: torch.Tensor, name: str, other_name: str) -> None:
    """Raises UsageError: tensors that broadcast would give a number, and a wrong one."""
    if one.shape != other.shape:
        raise UsageError(f"{name} have shape {tuple(one.shape)}, {other_name} {tuple(other.shape)}; they must be equal")


def known(labels: torch.Tensor) -> torch.Tensor:
    """Which labels are there: a mask of their shape. Numbers, of a regression, are not where they are NaN."""
    return ~labels.isnan() if labels.is_floating_point() else labels != UNLABELLED


def mean_of_known(values: torch.Tensor, mask: torch.Tensor, labelled: float | None = None) -> torch.Tensor:
    """The mean of the values under a mask of the same shape; 0 with zero gradients where it is empty.

    labelled: see `Signals`, for a mask of labels.
    """
    return values.masked_fill(~mask, 0.0).sum() / how_many(mask, labelled)


def how_many(mask: torch.Tensor, labelled: float | None) -> torch.Tensor | float:
    """What a mean over the labels under a mask divides by, 1 instead of 0. labelled: see `Signals`."""
    return mask.sum().clamp(min=1) if labelled is None else (len(mask) * labelled or 1.0)
