"""Every loss of the package with a batch that it fits, for the tests that hold for all of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from edgekd.distill import losses
from edgekd.distill.losses import Loss, Signals

NAN = float("nan")


@dataclass(frozen=True)
class Case:
    """make: the loss. labels: of which kind. falls_to_zero: where the student is the teacher.

    step: learning rate at which plain gradient descent makes it fall on the toy pair.
    """

    make: Callable[[], Loss]
    labels: str = "classes"
    falls_to_zero: bool = True
    step: float = 0.1


CASES = {
    "hard": Case(losses.hard, falls_to_zero=False),
    "soft": Case(lambda: losses.soft(3.0)),
    "soft-cross-entropy": Case(lambda: losses.soft_cross_entropy(2.0), falls_to_zero=False),
    "hard-distillation": Case(losses.hard_distillation, falls_to_zero=False),
    "logits-mse": Case(losses.logits_mse),
    "forward-kl": Case(lambda: losses.forward_kl(1.5)),
    "reverse-kl": Case(lambda: losses.reverse_kl(1.5)),
    "jensen-shannon": Case(lambda: losses.jensen_shannon(0.3, 1.5)),
    "dkd": Case(lambda: losses.dkd(1.0, 2.0, 2.0)),
    "dist": Case(lambda: losses.dist(1.0, 2.0, 1.5)),
    "hard-binary": Case(losses.hard_binary, "binary", falls_to_zero=False),
    "binary-soft": Case(lambda: losses.binary_soft([1.0, 2.0, 4.0, 0.5]), "binary"),
    "hard-mse": Case(losses.hard_mse, "numbers", falls_to_zero=False),
    "hard-l1": Case(losses.hard_l1, "numbers", falls_to_zero=False),
    "output-mse": Case(losses.output_mse, "numbers"),
    "output-l1": Case(losses.output_l1, "numbers"),
    "feature-mse": Case(lambda: losses.feature_mse("same", "same")),
    "hint": Case(lambda: losses.hint("map", "map"), falls_to_zero=False),
    "attention-transfer": Case(lambda: losses.attention_transfer("map", "map")),
    "rkd-distance": Case(lambda: losses.rkd_distance("flat", "flat")),
    "rkd-distance of outputs": Case(losses.rkd_distance),
    "rkd-angle": Case(lambda: losses.rkd_angle("flat", "flat")),
    "rkd-angle of outputs": Case(losses.rkd_angle),
    "similarity-preserving": Case(lambda: losses.similarity_preserving("flat", "flat")),
    "similarity-preserving of outputs": Case(losses.similarity_preserving),
    "adversarial": Case(lambda: losses.adversarial("map", "map", hidden=5), falls_to_zero=False),
    "adversarial of outputs": Case(lambda: losses.adversarial(hidden=5), falls_to_zero=False),
}

LABELS = {
    "classes": lambda count: torch.tensor([2, -1, 0, 3, 1])[:count],
    "binary": lambda count: torch.tensor([[1, 0, -1, 1], [-1, -1, -1, -1], [0, 0, 1, 1], [1, 1, 0, -1], [0, 0, 0, 0]])[
        :count
    ],
    "numbers": lambda count: torch.tensor(
        [[0.5, NAN, -1.0, 2.0], [NAN] * 4, [1.0, 1.0, 0.0, NAN], [0.25, -3.0, 0.5, 0.0], [0.0, 2.0, NAN, 1.0]]
    )[:count],
}


def unlabelled(labels: torch.Tensor) -> torch.Tensor:
    return torch.full_like(labels, NAN if labels.is_floating_point() else -1)


def signals(labels: str = "classes", count: int = 5, dtype: torch.dtype = torch.float64) -> Signals:
    """A batch of four outputs with layers 'same' (alike in both models), 'map' and 'flat'."""
    random = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(5, *shape, generator=random, dtype=torch.float64).to(dtype)[:count]

    def layers(channels: int, size: int) -> dict[str, torch.Tensor]:
        return {"same": draw(3, 2), "map": draw(channels, size, size), "flat": draw(channels)}

    return Signals(2 * draw(4), LABELS[labels](count), 2 * draw(4), layers(2, 5), layers(3, 3))


def with_gradients(given: Signals) -> Signals:
    """The same batch with leaves to differentiate for: the student's outputs and layers."""
    return replace(
        given,
        student=given.student.clone().requires_grad_(),
        student_taps={name: value.clone().requires_grad_() for name, value in given.student_taps.items()},
    )


def built(loss: Loss, given: Signals) -> Signals:
    """The batch with what the loss learns, from a fixed seed."""
    if loss.build is None:
        return given
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return replace(given, learned=loss.build(given))


def leaves(given: Signals) -> list[torch.Tensor]:
    learned = [] if given.learned is None else list(given.learned.parameters())
    return [given.student, *given.student_taps.values(), *learned]


class Toy(nn.Module):
    """Images (N, 1, 6, 6) to four outputs, with the layers that the losses above name."""

    def __init__(self, channels: int, kernel: int, seed: int, certainty: float = 1.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.map = nn.Conv2d(1, channels, kernel)
            self.flat = nn.Linear(channels * (7 - kernel) ** 2, channels)
            self.same = nn.Linear(channels, 6)
            self.head = nn.Linear(6, 4)
        self.certainty = certainty

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        flat = self.flat(torch.tanh(self.map(inputs)).flatten(1))
        outputs: torch.Tensor = self.certainty * self.head(torch.tanh(self.same(torch.tanh(flat))))
        return outputs
