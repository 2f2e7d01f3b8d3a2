"""The loss of one batch, for this package's trainer and for anybody's own loop."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from edgekd.distill.balance import Balance, weighted
from edgekd.distill.losses import Loss, Signals, hard, soft
from edgekd.distill.taps import Taps
from edgekd.errors import UsageError


@dataclass(frozen=True)
class Objective:
    """Named losses over outputs and tapped layers, and the balance that folds them into one."""

    losses: Mapping[str, Loss]
    balance: Balance

    @property
    def needs_teacher(self) -> bool:
        return any(loss.needs_teacher for loss in self.losses.values())

    @property
    def teacher_taps(self) -> tuple[str, ...]:
        return tuple(name for loss in self.losses.values() for name in loss.teacher_taps)

    @property
    def student_taps(self) -> tuple[str, ...]:
        return tuple(name for loss in self.losses.values() for name in loss.student_taps)


def supervised() -> Objective:
    """Hard labels alone."""
    return Objective({"hard": hard()}, weighted({"hard": 1.0}))


def soft_targets(temperature: float, weight: float) -> Objective:
    """(1 - weight) times the hard loss plus weight times the soft loss (Hinton et al. 2015)."""
    return Objective(
        {"hard": hard(), "soft": soft(temperature)},
        weighted({"hard": 1.0 - weight, "soft": weight}),
    )


class Distiller:
    """Gives the loss of a batch for a student, a teacher and an objective; the training loop is the caller's.

    The teacher is put in eval mode and never gets a gradient. It runs only where the objective needs it and its
    outputs are not handed in.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module | None, objective: Objective) -> None:
        self.student = student
        self.teacher = None if teacher is None else teacher.eval().requires_grad_(False)
        self.objective = objective
        if objective.teacher_taps and teacher is None:
            raise UsageError("the objective taps layers of the teacher; give the teacher itself, not only its outputs")
        self._student_taps = Taps(student, objective.student_taps)
        self._teacher_taps = None if teacher is None else Taps(teacher, objective.teacher_taps)

    def __call__(
        self, inputs: torch.Tensor, labels: torch.Tensor, teacher_outputs: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The scalar to minimise, with gradients to the student, and each named part of it.

        inputs: (N, ...); labels: int64, (N,); teacher_outputs: logits, (N, classes), if known already.
        """
        objective = self.objective
        if self.teacher is not None and (
            objective.teacher_taps or (objective.needs_teacher and teacher_outputs is None)
        ):
            with torch.no_grad():
                teacher_outputs = self.teacher(inputs)
        if objective.needs_teacher and teacher_outputs is None:
            raise UsageError("the objective needs the teacher; give a teacher or its outputs")
        signals = Signals(
            student=self.student(inputs),
            labels=labels,
            teacher=teacher_outputs,
            student_taps=self._student_taps.values,
            teacher_taps=self._teacher_taps.values if self._teacher_taps else {},
        )
        parts = {name: loss.compute(signals) for name, loss in objective.losses.items()}
        return objective.balance(parts), {name: part.detach() for name, part in parts.items()}
