"""The loss of one batch, for this package's trainer and for anybody's own loop."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from edgekd.distill.balance import Balance, DynamicAverage, weighted
from edgekd.distill.config import Outputs
from edgekd.distill.losses import Loss, Signals, hard, hard_binary, hard_mse, soft
from edgekd.distill.taps import Taps
from edgekd.errors import UsageError

HARD: dict[Outputs, Callable[[], Loss]] = {
    "classification": hard,
    "multi-label": hard_binary,
    "regression": hard_mse,
}
"""The loss of the labels for each kind of output."""


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
        return tuple(dict.fromkeys(name for loss in self.losses.values() for name in loss.teacher_taps))

    @property
    def student_taps(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for loss in self.losses.values() for name in loss.student_taps))


def supervised(outputs: Outputs = "classification") -> Objective:
    """Hard labels alone."""
    return Objective({"hard": HARD[outputs]()}, weighted({"hard": 1.0}))


def soft_targets(temperature: float, weight: float) -> Objective:
    """(1 - weight) times the hard loss plus weight times the soft loss (Hinton et al. 2015)."""
    return Objective(
        {"hard": hard(), "soft": soft(temperature)},
        weighted({"hard": 1.0 - weight, "soft": weight}),
    )


class Distiller(nn.Module):
    """Gives the loss of a batch for a student, a teacher and an objective; the training loop is the caller's.

    The teacher is put in eval mode, never gets a gradient, and is no part of this module: it runs only where the
    objective needs it and its outputs are not handed in. The parameters and the state are those of the student and of
    `learned`: what the losses and the balance learn for themselves. They are made from one batch, by `prepare` or by
    the first call, so an objective that has any must be prepared before its parameters are asked for.
    """

    teacher: nn.Module | None
    __call__: Callable[..., tuple[torch.Tensor, dict[str, torch.Tensor]]]

    def __init__(self, student: nn.Module, teacher: nn.Module | None, objective: Objective) -> None:
        super().__init__()
        self.student = student
        self.learned = nn.ModuleDict()
        self.__dict__["teacher"] = None if teacher is None else teacher.eval().requires_grad_(False)
        self.objective = objective
        if objective.teacher_taps and teacher is None:
            raise UsageError("the objective taps layers of the teacher; give the teacher itself, not only its outputs")
        if isinstance(objective.balance, nn.Module):
            beside = next(student.parameters(), torch.empty(0))
            self.learned["balance"] = copy.deepcopy(objective.balance).to(beside.device)
        self._student_taps = Taps(student, objective.student_taps)
        self._teacher_taps = None if teacher is None else Taps(teacher, objective.teacher_taps)

    def forward(
        self,
        inputs: torch.Tensor,
        labels: torch.Tensor,
        teacher_outputs: torch.Tensor | None = None,
        progress: float = 0.0,
        labelled: float | None = None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The scalar to minimise, with gradients to the student and to what is learned, and each named part of it.

        inputs: (N, ...); labels: see `Signals`, for most int64, (N,), -1 where a sample has none; teacher_outputs:
        logits, (N, classes), if known already; progress: share of the training that is done, 0 to 1, for what is
        annealed; labelled: see `Signals`, for a part of a larger batch. What a rival of the student minimises
        (`Loss.rival`) adds its gradient and not its value; it is among the parts as `<loss>.rival`.
        """
        objective, signals = self.objective, self._signals(inputs, labels, teacher_outputs, progress, labelled)
        self._build(signals)
        seen = {name: replace(signals, learned=self._learned_by(name)) for name in objective.losses}
        parts = {name: loss.compute(seen[name]) for name, loss in objective.losses.items()}
        rivals = {f"{name}.rival": loss.rival(seen[name]) for name, loss in objective.losses.items() if loss.rival}
        total = self._balance(parts, progress)
        for value in rivals.values():
            total = total + (value - value.detach())
        return total, {name: part.detach() for name, part in (parts | rivals).items()}

    def prepare(self, inputs: torch.Tensor, teacher_outputs: torch.Tensor | None = None) -> None:
        """Make what the losses learn for themselves, from one batch; it must come before an optimizer or a state.

        The models run without gradients and in eval mode, and only if there is something to make.
        """
        if not self._unbuilt():
            return
        modes = {module: module.training for module in self.student.modules()}
        self.student.eval()
        with torch.no_grad():
            self._build(self._signals(inputs, torch.empty(0), teacher_outputs, 0.0))
        for module, mode in modes.items():
            module.training = mode

    def end_epoch(self, total: Callable[[torch.Tensor], torch.Tensor] = torch.clone) -> None:
        """Tell a balance that goes by epochs that one has ended; `total` sums a tensor over all processes."""
        if isinstance(self._balance, DynamicAverage):
            self._balance.end_epoch(total)

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Those of the student, then those of `learned`. Raises UsageError if these are still to be made."""
        if unbuilt := self._unbuilt():
            raise UsageError(
                f"'{unbuilt[0]}' learns parameters of its own: call prepare() with one batch of inputs first"
            )
        return super().named_parameters(prefix, recurse, remove_duplicate)

    @property
    def _balance(self) -> Balance:
        balance: Balance = dict(self.learned.items()).get("balance", self.objective.balance)
        return balance

    def _signals(
        self,
        inputs: torch.Tensor,
        labels: torch.Tensor,
        teacher_outputs: torch.Tensor | None,
        progress: float,
        labelled: float | None = None,
    ) -> Signals:
        objective = self.objective
        if self.teacher is not None and (
            objective.teacher_taps or (objective.needs_teacher and teacher_outputs is None)
        ):
            with torch.no_grad():
                teacher_outputs = self.teacher(inputs)
        if objective.needs_teacher and teacher_outputs is None:
            raise UsageError("the objective needs the teacher; give a teacher or its outputs")
        return Signals(
            student=_full(self.student(inputs)),
            labels=labels,
            teacher=None if teacher_outputs is None else _full(teacher_outputs),
            student_taps={name: _full(value) for name, value in self._student_taps.values.items()},
            teacher_taps={name: _full(value) for name, value in self._teacher_taps.values.items()}
            if self._teacher_taps
            else {},
            progress=progress,
            labelled=labelled,
        )

    def _unbuilt(self) -> list[str]:
        losses = self.objective.losses.items()
        return [name for name, loss in losses if loss.build and _key(name) not in self.learned]

    def _build(self, signals: Signals) -> None:
        for name in self._unbuilt():
            build = self.objective.losses[name].build
            assert build is not None
            self.learned[_key(name)] = build(signals)

    def _learned_by(self, name: str) -> nn.Module | None:
        return dict(self.learned.items()).get(_key(name))


def _key(name: str) -> str:
    """A loss's name as the name of a module, like that of no attribute and not the balance's."""
    return f"loss_{name}"


def _full(values: torch.Tensor) -> torch.Tensor:
    """At least single precision: squares and logarithms of half precision are no basis for a loss."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
