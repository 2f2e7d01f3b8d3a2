from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.distill import Distiller, Objective
from edgekd.distill.balance import weighted
from edgekd.distill.losses import Signals, adversarial
from tests.distill.losses.every import Toy, built, signals, with_gradients


class Reading(nn.Module):
    """The first feature as it is: a discriminator whose verdicts are known."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.scale * features.flatten(1)[:, 0]


def known() -> Signals:
    given = with_gradients(signals())
    return replace(given, learned=nn.ModuleDict({"carry": nn.Identity(), "discriminator": Reading()}))


def test_the_student_wants_to_be_taken_for_the_teacher() -> None:
    given = known()
    verdicts = given.student.detach().numpy()[:, 0]
    by_hand = -np.log(1 / (1 + np.exp(-verdicts))).mean()
    assert adversarial().compute(given).item() == pytest.approx(by_hand, rel=1e-12)


def test_the_discriminator_wants_to_tell_them_apart() -> None:
    given = known()
    share = [1 / (1 + np.exp(-outputs.detach().numpy()[:, 0])) for outputs in (given.teacher, given.student)]
    by_hand = -np.log(share[0]).mean() - np.log(1 - share[1]).mean()
    assert adversarial().rival(given).item() == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("layers", [(None, None), ("map", "map")])
def test_each_moves_its_own_side_alone(layers: tuple[str | None, str | None]) -> None:
    loss = adversarial(*layers)
    given = built(loss, with_gradients(signals()))
    own = given.student if layers[0] is None else given.student_taps["map"]
    carry, discriminator = (list(given.learned[name].parameters()) for name in ("carry", "discriminator"))
    loss.compute(given).backward()
    assert own.grad.abs().sum() > 0
    assert all(value.grad.abs().sum() > 0 for value in carry)
    assert all(value.grad is None for value in discriminator)
    own.grad, before = None, [value.grad.clone() for value in carry]
    loss.rival(given).backward()
    assert own.grad is None
    assert all(torch.equal(value.grad, one) for value, one in zip(carry, before, strict=True))
    assert all(value.grad.abs().sum() > 0 for value in discriminator)


def test_layers_of_the_same_shape_need_no_regressor() -> None:
    given = built(adversarial("same", "same"), signals())
    assert not list(given.learned["carry"].parameters())


def test_one_backward_pass_gives_both_their_gradients_and_the_value_is_the_students() -> None:
    student, teacher = Toy(2, 2, seed=0), Toy(3, 4, seed=1)
    distiller = Distiller(student, teacher, Objective({"game": adversarial()}, weighted({"game": 0.5})))
    inputs, labels = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(2)), torch.zeros(5).long()
    distiller.prepare(inputs)
    loss, parts = distiller(inputs, labels)
    assert loss.item() == pytest.approx(0.5 * parts["game"].item())
    assert set(parts) == {"game", "game.rival"}
    loss.backward()
    found = {name: value.grad.clone() for name, value in distiller.named_parameters()}
    assert all(value.abs().sum() > 0 for name, value in found.items() if name.startswith("student.head"))
    discriminator = distiller.learned["loss_game"]["discriminator"]
    seen = Signals(student(inputs), labels, teacher(inputs), learned=distiller.learned["loss_game"])
    expected = torch.autograd.grad(adversarial().rival(seen), list(discriminator.parameters()))
    for (name, _), gradient in zip(discriminator.named_parameters(), expected, strict=True):
        torch.testing.assert_close(found[f"learned.loss_game.discriminator.{name}"], gradient)


def test_the_discriminator_learns_to_tell_a_student_that_stands_still() -> None:
    student, teacher = Toy(2, 2, seed=0), Toy(3, 4, seed=1)
    distiller = Distiller(student, teacher, Objective({"game": adversarial()}, weighted({"game": 1.0})))
    inputs = torch.randn(16, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(0)
    distiller.prepare(inputs)
    optimizer = torch.optim.SGD(distiller.learned.parameters(), lr=0.5)
    history = []
    for _ in range(21):
        loss, parts = distiller(inputs, torch.zeros(16).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(parts["game.rival"].item())
    assert history[0] == pytest.approx(2 * np.log(2), abs=0.2)
    assert history[-1] < 0.5 * history[0]
