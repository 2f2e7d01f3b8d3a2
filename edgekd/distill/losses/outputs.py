"""Multi-label classification and regression: losses over outputs that do not share one softmax."""

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from edgekd.distill.losses.loss import UNLABELLED, Loss, Signals, both_outputs, mean_of_known, require_same_shape
from edgekd.distill.schedules import Number, at
from edgekd.errors import UsageError


def hard_binary() -> Loss:
    """Binary cross entropy of each logit with its label, the mean over the labelled entries; 0 where there is none.

    Logits (N, classes); labels 0, 1 or UNLABELLED, (N, classes), of any dtype.
    """

    def compute(signals: Signals) -> torch.Tensor:
        student, labels = signals.student, signals.labels
        require_same_shape(student, labels, "the student's outputs", "the labels")
        targets = labels.clamp(min=0).to(student.dtype)
        each = F.binary_cross_entropy_with_logits(student, targets, reduction="none")
        return mean_of_known(each, labels != UNLABELLED, signals.labelled)

    return Loss(compute)


def binary_soft(temperature: Number | Sequence[float]) -> Loss:
    """T_c² KL of two outcomes, sigmoid(z_c / T_c) of the teacher and of the student, the mean over batch and classes.

    Soft targets (Hinton et al. 2015, section 2.1) for labels that do not exclude each other, each against the rest, as
    the logits of a multi-label teacher are distilled in Yang et al. 2023. One temperature for all classes, or one for
    each. Logits (N, classes) of both.
    Raises UsageError, at a batch, if there are more or fewer temperatures than classes.
    """

    def compute(signals: Signals) -> torch.Tensor:
        student, teacher = both_outputs(signals)
        softness = _row(temperature, student) if isinstance(temperature, Sequence) else _at(temperature, signals)
        z, v = student / softness, teacher / softness
        on = v.sigmoid() * (F.logsigmoid(v) - F.logsigmoid(z))
        off = (-v).sigmoid() * (F.logsigmoid(-v) - F.logsigmoid(-z))
        return (softness**2 * (on + off)).mean()

    return Loss(compute, needs_teacher=True)


def _at(temperature: Number, signals: Signals) -> torch.Tensor:
    return signals.student.new_tensor(at(temperature, signals.progress))


def _row(temperatures: Sequence[float], outputs: torch.Tensor) -> torch.Tensor:
    if len(temperatures) != outputs.shape[1]:
        raise UsageError(f"{len(temperatures)} temperatures for {outputs.shape[1]} classes; give one, or one for each")
    return outputs.new_tensor(temperatures)


def hard_mse() -> Loss:
    """Mean squared difference to the labels over those that are not NaN; 0 where all are. Both (N, ...), alike."""
    return Loss(lambda signals: _to_labels(signals, F.mse_loss))


def hard_l1() -> Loss:
    """Mean absolute difference to the labels over those that are not NaN; 0 where all are. Both (N, ...), alike."""
    return Loss(lambda signals: _to_labels(signals, F.l1_loss))


def _to_labels(signals: Signals, difference: Callable[..., torch.Tensor]) -> torch.Tensor:
    student, labels = signals.student, signals.labels
    require_same_shape(student, labels, "the student's outputs", "the labels")
    each = difference(student, labels.nan_to_num().to(student.dtype), reduction="none")
    return mean_of_known(each, ~labels.isnan(), signals.labelled)


def output_mse() -> Loss:
    """Mean squared difference to the teacher's outputs, as Ba & Caruana 2014 for logits. Both (N, ...), alike."""
    return Loss(lambda signals: F.mse_loss(*both_outputs(signals)), needs_teacher=True)


def output_l1() -> Loss:
    """Mean absolute difference to the teacher's outputs: far ones pull no more than near ones. Both (N, ...), alike."""
    return Loss(lambda signals: F.l1_loss(*both_outputs(signals)), needs_teacher=True)
