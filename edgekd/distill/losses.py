"""Distillation losses: each looks at the signals of one batch and gives a scalar."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch.nn import functional as F


@dataclass(frozen=True)
class Signals:
    """What one batch offers to a loss.

    student, teacher: logits, float, shape (N, classes); teacher is None where nobody asked for it.
    labels: class indices, int64, shape (N,).
    student_taps, teacher_taps: outputs of tapped layers, by module path.
    """

    student: torch.Tensor
    labels: torch.Tensor
    teacher: torch.Tensor | None = None
    student_taps: Mapping[str, torch.Tensor] = field(default_factory=dict)
    teacher_taps: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Loss:
    """A function Signals -> scalar, and what it needs: the teacher's logits, or layers of either model."""

    compute: Callable[[Signals], torch.Tensor]
    needs_teacher: bool = False
    student_taps: tuple[str, ...] = ()
    teacher_taps: tuple[str, ...] = ()


def hard() -> Loss:
    """Cross entropy with the labels."""
    return Loss(lambda signals: F.cross_entropy(signals.student, signals.labels))


def soft(temperature: float) -> Loss:
    """T² KL(teacher_T || student_T), the mean over the batch (Hinton et al. 2015, section 2.1).

    Both distributions are softened with T; the factor T² keeps the size of the gradients as T changes.
    """

    def compute(signals: Signals) -> torch.Tensor:
        assert signals.teacher is not None
        student = F.log_softmax(signals.student / temperature, dim=1)
        teacher = F.log_softmax(signals.teacher / temperature, dim=1)
        return temperature**2 * F.kl_div(student, teacher, log_target=True, reduction="batchmean")

    return Loss(compute, needs_teacher=True)


def feature_mse(student_layer: str, teacher_layer: str) -> Loss:
    """Mean squared difference of two tapped layers of the same shape (Romero et al. 2014, without a regressor)."""
    return Loss(
        lambda signals: F.mse_loss(signals.student_taps[student_layer], signals.teacher_taps[teacher_layer]),
        student_taps=(student_layer,),
        teacher_taps=(teacher_layer,),
    )
