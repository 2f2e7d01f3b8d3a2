"""A discriminator that learns to tell the student from the teacher, and a student that learns to be taken for it."""

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from edgekd.distill.losses.features import over_pair, pair, regressor
from edgekd.distill.losses.loss import Loss, Signals


class Discriminator(nn.Module):
    """A perceptron of one hidden layer: features (N, ...) to the logit of 'this is the teacher', (N,)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, hidden)
        self.outer = nn.Linear(hidden, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        verdict: torch.Tensor = self.outer(F.leaky_relu(self.inner(features.flatten(1)), 0.2)).squeeze(1)
        return verdict


def adversarial(student_layer: str | None = None, teacher_layer: str | None = None, hidden: int = 64) -> Loss:
    """-log D(student) for a discriminator D that minimises -log D(teacher) - log(1 - D(student)), batch means.

    The game of Goodfellow et al. 2014 (equation 1, with the student's part as at the end of section 3), played on
    logits as in Xu et al. 2018, without their condition on the class, or on features. Both take their turn in each
    batch: `compute` sees D as it is and moves the student, `rival` sees the student as it is and moves D.
    Logits (N, classes) of both; or two layers, where a learned `regressor` (see there for shapes) brings the student's
    to the teacher's shape if they differ.
    """

    def build(signals: Signals) -> nn.Module:
        student, teacher = pair(signals, student_layer, teacher_layer)
        same = student.shape == teacher.shape
        carry = nn.Identity() if same else regressor(student, teacher, str(student_layer), str(teacher_layer))
        discriminator = Discriminator(teacher.flatten(1).shape[1], hidden).to(student.device, student.dtype)
        return nn.ModuleDict({"carry": carry, "discriminator": discriminator})

    def compute(signals: Signals) -> torch.Tensor:
        carry, discriminator = _parts(signals)
        fixed = {name: value.detach() for name, value in discriminator.named_parameters()}
        student, _ = pair(signals, student_layer, teacher_layer)
        verdict = functional_call(discriminator, fixed, (carry(student),))
        return F.softplus(-verdict).mean()

    def rival(signals: Signals) -> torch.Tensor:
        carry, discriminator = _parts(signals)
        student, teacher = pair(signals, student_layer, teacher_layer)
        with torch.no_grad():
            student = carry(student)
        return F.softplus(-discriminator(teacher)).mean() + F.softplus(discriminator(student.detach())).mean()

    return over_pair(Loss(compute, build=build, rival=rival), student_layer, teacher_layer)


def _parts(signals: Signals) -> tuple[nn.Module, nn.Module]:
    assert isinstance(signals.learned, nn.ModuleDict)
    return signals.learned["carry"], signals.learned["discriminator"]
