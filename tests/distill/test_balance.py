import copy
import math

import pytest
import torch

from edgekd.distill.balance import DynamicAverage, Uncertainty, two_stage, weighted
from edgekd.distill.schedules import Number, cosine, linear
from edgekd.errors import UsageError


def test_losses_are_added_with_their_weights() -> None:
    parts = {"hard": torch.tensor(2.0), "soft": torch.tensor(0.5)}
    assert weighted({"hard": 0.1, "soft": 3.0})(parts).item() == pytest.approx(1.7)


def test_gradients_are_weighted_too() -> None:
    value = torch.tensor(3.0, requires_grad=True)
    weighted({"a": 2.0, "b": 0.5})({"a": value**2, "b": 4 * value}).backward()
    assert value.grad.item() == pytest.approx(2.0 * 6.0 + 0.5 * 4.0)


def test_a_loss_of_weight_zero_has_no_say() -> None:
    value = torch.tensor(3.0, requires_grad=True)
    weighted({"a": 1.0, "b": 0.0})({"a": value, "b": value**2}).backward()
    assert value.grad.item() == 1.0


@pytest.mark.parametrize("weights", [{"a": -1.0, "b": 2.0}, {"a": 0.0, "b": 0.0}, {}])
def test_refuses_weights_that_cannot_be_minimised(weights: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="loss weights"):
        weighted(weights)


def values(**parts: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in parts.items()}


def test_annealed_weights_follow_the_progress() -> None:
    fold = weighted({"a": linear(1.0, 0.0), "b": cosine(0.0, 2.0), "c": 0.5})
    for progress, expected in ((0.0, 10.0 + 0.5), (0.5, 5.0 + 1.0 + 0.5), (1.0, 2.0 + 0.5)):
        assert fold(values(a=10.0, b=1.0, c=1.0), progress).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    "weights", [{"a": linear(1.0, -0.1)}, {"a": cosine(-0.1, 1.0), "b": 2.0}, {"a": linear(0.0, 0.0), "b": 0.0}]
)
def test_refuses_annealed_weights_that_cannot_be_minimised(weights: dict[str, Number]) -> None:
    with pytest.raises(UsageError, match="loss weights"):
        weighted(weights)


@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_a_loss_without_a_weight_is_refused(progress: float) -> None:
    parts = values(a=1.0, b=1.0)
    folds = [weighted({"a": 1.0}), Uncertainty({"a": 1.0}), DynamicAverage({"a": 1.0})]
    folds.append(two_stage({"a": 1.0, "c": 1.0}, {"a"}))
    for fold in folds:
        with pytest.raises(UsageError, match="b"):
            fold(parts, progress)


def test_two_stages_are_the_teacher_first_and_then_the_task() -> None:
    fold = two_stage({"hard": 2.0, "hint": 0.5, "soft": linear(1.0, 0.0)}, {"hint", "soft"}, 0.25)
    parts = values(hard=1.0, hint=10.0, soft=100.0)
    assert fold(parts, 0.0).item() == pytest.approx(5.0 + 100.0)
    assert fold(parts, 0.24).item() == pytest.approx(5.0 + 76.0)
    assert fold(parts, 0.25).item() == pytest.approx(2.0)
    assert fold(parts, 1.0).item() == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("weights", "first"),
    [
        ({"hard": 1.0}, set()),
        ({"soft": 1.0}, {"soft"}),
        ({"hard": 0.0, "soft": 1.0}, {"soft"}),
        ({"hard": 1.0, "soft": -1.0}, {"soft"}),
    ],
)
def test_two_stages_need_a_loss_each(weights: dict[str, float], first: set[str]) -> None:
    with pytest.raises(UsageError, match=r"stage|loss weights"):
        two_stage(weights, first)


def test_learned_weights_start_at_the_given_ones() -> None:
    balance = Uncertainty({"a": 2.0, "b": 0.5})
    by_hand = 2.0 * 3.0 - math.log(2.0) / 2 + 0.5 * 5.0 - math.log(0.5) / 2
    assert balance(values(a=3.0, b=5.0)).item() == pytest.approx(by_hand, rel=1e-6)


def test_learned_weights_have_the_gradients_of_the_formula() -> None:
    balance = Uncertainty({"a": 2.0, "b": 0.5}).double()
    assert torch.autograd.gradcheck(lambda *_: balance(values(a=3.0, b=5.0)), list(balance.parameters()))
    balance(values(a=3.0, b=5.0)).backward()
    assert balance.log_variances.grad.tolist() == pytest.approx([0.5 - 2.0 * 3.0, 0.5 - 0.5 * 5.0], rel=1e-6)


def test_learned_weights_tend_to_half_of_the_inverse_loss() -> None:
    balance = Uncertainty({"a": 1.0, "b": 1.0})
    optimizer = torch.optim.SGD(balance.parameters(), lr=0.2)
    for _ in range(300):
        optimizer.zero_grad()
        balance(values(a=3.0, b=0.25)).backward()
        optimizer.step()
    assert torch.exp(-balance.log_variances).tolist() == pytest.approx([1 / 6.0, 2.0], rel=1e-3)


def test_learned_weights_keep_their_names_in_any_order() -> None:
    balance = Uncertainty({"a": 2.0, "b": 0.5})
    assert balance(values(b=5.0, a=3.0)).item() == pytest.approx(balance(values(a=3.0, b=5.0)).item())


@pytest.mark.parametrize("weights", [{"a": 0.0, "b": 1.0}, {"a": -1.0}, {}])
def test_learned_weights_start_from_positive_ones(weights: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="loss weights"):
        Uncertainty(weights)


def epoch(balance: DynamicAverage, *batches: dict[str, torch.Tensor]) -> list[float]:
    folded = [balance(batch).item() for batch in batches]
    balance.end_epoch()
    return folded


def test_dynamic_average_by_hand() -> None:
    """Means (2, 8), then (1, 8): ratios 1/2 and 1, so lambda = 2 softmax(1/4, 1/2)."""
    balance = DynamicAverage({"a": 1.0, "b": 3.0})
    assert epoch(balance, values(a=1.0, b=7.0), values(a=3.0, b=9.0)) == pytest.approx([22.0, 30.0])
    assert epoch(balance, values(a=1.0, b=8.0)) == pytest.approx([25.0])
    lambdas = [2 * math.exp(r) / (math.exp(0.25) + math.exp(0.5)) for r in (0.25, 0.5)]
    assert balance.lambdas().tolist() == pytest.approx(lambdas)
    assert epoch(balance, values(a=10.0, b=1.0)) == pytest.approx([10 * lambdas[0] + 3 * lambdas[1]])
    later = [2 * math.exp(r / 2) / (math.exp(10 / 2) + math.exp(1 / 16)) for r in (10.0, 1 / 8)]
    assert balance.lambdas().tolist() == pytest.approx(later)


def test_a_higher_temperature_evens_the_factors_out() -> None:
    spreads = []
    for temperature in (0.5, 2.0, 100.0):
        balance = DynamicAverage({"a": 1.0, "b": 1.0}, temperature)
        epoch(balance, values(a=1.0, b=1.0))
        epoch(balance, values(a=1.0, b=0.1))
        spreads.append((balance.lambdas()[0] - balance.lambdas()[1]).item())
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[-1] == pytest.approx(0.0, abs=0.02)


def test_a_loss_that_was_zero_has_no_rate() -> None:
    balance = DynamicAverage({"a": 1.0, "b": 1.0})
    for _ in range(2):
        epoch(balance, values(a=0.0, b=1.0))
    assert balance.lambdas().tolist() == pytest.approx([1.0, 1.0])


def test_batches_without_gradients_and_empty_epochs_do_not_count() -> None:
    balance, undisturbed = DynamicAverage({"a": 1.0, "b": 1.0}), DynamicAverage({"a": 1.0, "b": 1.0})
    for given in (values(a=4.0, b=2.0), values(a=3.0, b=1.0)):
        epoch(undisturbed, given)
        with torch.no_grad():
            balance(values(a=99.0, b=0.0))
        epoch(balance, given)
        balance.end_epoch()
    assert torch.equal(balance.lambdas(), undisturbed.lambdas())


def test_the_means_are_part_of_the_state() -> None:
    balance = DynamicAverage({"a": 1.0, "b": 1.0})
    epoch(balance, values(a=4.0, b=2.0))
    balance(values(a=1.0, b=2.0))
    resumed = DynamicAverage({"a": 1.0, "b": 1.0})
    resumed.load_state_dict(copy.deepcopy(balance.state_dict()))
    for one in (balance, resumed):
        epoch(one, values(a=2.0, b=2.0))
    assert resumed.lambdas()[0] < 1.0
    assert torch.equal(resumed.lambdas(), balance.lambdas())


def test_several_processes_have_the_means_over_all_of_them() -> None:
    alone, shared = DynamicAverage({"a": 1.0, "b": 1.0}), DynamicAverage({"a": 1.0, "b": 1.0})
    for mine, theirs in ((4.0, 6.0), (1.0, 3.0)):
        epoch(alone, values(a=mine, b=1.0), values(a=theirs, b=1.0))
        shared(values(a=mine, b=1.0))
        others = torch.tensor([[theirs, 1.0], [1.0, 1.0]])
        shared.end_epoch(lambda own, others=others: own + others)
    assert torch.equal(shared.lambdas(), alone.lambdas())


@pytest.mark.parametrize("weights", [{"a": -1.0, "b": 2.0}, {"a": 0.0}, {}])
def test_dynamic_average_refuses_weights_that_cannot_be_minimised(weights: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="loss weights"):
        DynamicAverage(weights)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_dynamic_average_refuses_a_temperature_that_is_not_positive(temperature: float) -> None:
    with pytest.raises(UsageError, match="not positive"):
        DynamicAverage({"a": 1.0}, temperature)
