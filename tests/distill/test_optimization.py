import math

import pytest
import torch
from torch import nn

from edgekd.distill.optimization import make_optimizer, make_schedule
from edgekd.recipe import Training


def rates(steps: int, **settings: object) -> list[float]:
    """The learning rate of each step."""
    model = nn.Linear(1, 1)
    training = Training(epochs=1, learning_rate=0.5, **settings)  # type: ignore[arg-type]
    optimizer = make_optimizer(model, training)
    schedule = make_schedule(optimizer, training, steps)
    found = []
    for _ in range(steps):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


def test_warm_up_is_a_line_and_then_comes_half_a_cosine() -> None:
    warm = [0.5 * (step + 1) / 4 for step in range(4)]
    cosine = [0.5 * (1 + math.cos(math.pi * (step - 4) / 16)) / 2 for step in range(4, 20)]
    assert rates(20, schedule="cosine", warmup=0.2) == pytest.approx([*warm, *cosine])


def test_without_warm_up_the_cosine_starts_at_the_top() -> None:
    found = rates(10, schedule="cosine")
    assert found == pytest.approx([0.25 * (1 + math.cos(math.pi * step / 10)) for step in range(10)])
    assert found[0] == 0.5


def test_constant() -> None:
    assert rates(5, schedule="constant") == [0.5] * 5


def test_one_cycle_rises_for_three_tenths_and_falls_to_almost_nothing() -> None:
    found = rates(101)
    assert found[0] == pytest.approx(0.5 / 25)
    assert found.index(max(found)) in (29, 30)
    assert max(found) == pytest.approx(0.5, rel=1e-2)
    assert found[-1] == pytest.approx(0.5 / 25 / 1e4)


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "constant"])
def test_momentum_of_sgd_is_left_alone(schedule: str) -> None:
    training = Training(epochs=1, optimizer="sgd", momentum=0.3, schedule=schedule)  # type: ignore[arg-type]
    optimizer = make_optimizer(nn.Linear(1, 1), training)
    make_schedule(optimizer, training, 10)
    assert [group["momentum"] for group in optimizer.param_groups] == [0.3, 0.3]


def test_sgd_has_the_usual_momentum_unless_told() -> None:
    optimizer = make_optimizer(nn.Linear(1, 1), Training(epochs=1, optimizer="sgd"))
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.param_groups[0]["momentum"] == 0.9


def test_what_needs_no_gradient_is_not_trained() -> None:
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    groups = make_optimizer(model, Training(epochs=1)).param_groups
    assert [parameter for group in groups for parameter in group["params"]] == [model.bias]
