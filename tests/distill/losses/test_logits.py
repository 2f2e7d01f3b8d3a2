import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from edgekd.distill.losses import (
    Loss,
    Signals,
    dist,
    dkd,
    feature_mse,
    forward_kl,
    hard,
    hard_distillation,
    jensen_shannon,
    logits_mse,
    reverse_kl,
    soft,
    soft_cross_entropy,
)
from edgekd.distill.losses.logits import cross_entropy_with
from edgekd.distill.schedules import linear
from edgekd.errors import UsageError

STUDENT = torch.tensor([[-5.0, 2.0, 7.0, 9.0], [1.0, 0.5, -2.0, 0.0]])
TEACHER = torch.tensor([[-4.0, 3.0, 9.0, 6.0], [0.0, 2.0, 1.0, -1.0]])
LABELS = torch.tensor([3, 0])


def signals(student: torch.Tensor = STUDENT, teacher: torch.Tensor | None = TEACHER) -> Signals:
    return Signals(student=student, labels=LABELS[: len(student)], teacher=teacher)


def softened(logits: torch.Tensor, temperature: float) -> np.ndarray:
    powers = np.exp(logits.numpy().astype(np.float64) / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def gradient(loss: Loss, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    student = student.clone().requires_grad_()
    loss.compute(signals(student, teacher)).backward()
    return student.grad


@pytest.mark.parametrize(
    ("temperature", "shares"), [(1.0, (0.0000, 0.0008, 0.1191, 0.8801)), (3.0, (0.0058, 0.0599, 0.3170, 0.6174))]
)
def test_the_student_is_softened_by_the_temperature(temperature: float, shares: tuple[float, ...]) -> None:
    for index, share in enumerate(shares):
        certain = torch.full((1, 4), -1e4)
        certain[0, index] = 0.0
        loss = soft(temperature).compute(signals(STUDENT[:1], certain)).item()
        assert np.exp(-loss / temperature**2) == pytest.approx(share, abs=5e-5)


@pytest.mark.parametrize("temperature", [1.0, 3.0, 4.0, 20.0])
def test_soft_is_the_divergence_from_the_teacher(temperature: float) -> None:
    p, q = softened(TEACHER, temperature), softened(STUDENT, temperature)
    by_hand = temperature**2 * (p * np.log(p / q)).sum(axis=1).mean()
    assert soft(temperature).compute(signals(STUDENT.double(), TEACHER.double())).item() == pytest.approx(
        by_hand, rel=1e-5
    )


def test_soft_is_zero_where_student_and_teacher_agree() -> None:
    assert soft(4.0).compute(signals(STUDENT, STUDENT + 3.0)).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 8.0])
def test_gradient_of_soft(temperature: float) -> None:
    expected = temperature * (softened(STUDENT, temperature) - softened(TEACHER, temperature)) / len(STUDENT)
    np.testing.assert_allclose(gradient(soft(temperature), STUDENT, TEACHER), expected, atol=1e-6)


def test_at_a_high_temperature_soft_matches_logits() -> None:
    student, teacher = ((logits - logits.mean(dim=1, keepdim=True))[:1].double() for logits in (STUDENT, TEACHER))
    found = gradient(soft(1e5), student, teacher)
    np.testing.assert_allclose(found, (student - teacher) / 4, rtol=1e-3)


def test_soft_takes_logits_of_any_size() -> None:
    loss = soft(1.0).compute(signals(STUDENT * 1e4, TEACHER * 1e4))
    assert torch.isfinite(loss)


def test_hard_is_minus_the_logarithm_of_the_labels_share() -> None:
    shares = softened(STUDENT, 1.0)[[0, 1], LABELS]
    assert hard().compute(signals(teacher=None)).item() == pytest.approx(-np.log(shares).mean(), rel=1e-5)


def test_losses_say_what_they_need() -> None:
    assert not hard().needs_teacher
    assert soft(1.0).needs_teacher
    assert feature_mse("a", "b").student_taps == ("a",)
    assert feature_mse("a", "b").teacher_taps == ("b",)


WORKED = torch.tensor([[-5.0, 2.0, 7.0, 9.0]], dtype=torch.float64)
WORKED_TEACHER = torch.tensor([[0.0006, 0.0171, 0.0466, 0.9375]], dtype=torch.float64)


def test_the_worked_soft_cross_entropy() -> None:
    assert cross_entropy_with(WORKED_TEACHER, WORKED, 3.0).item() == pytest.approx(0.5569, abs=5e-5)


def test_the_worked_soft_cross_entropy_from_logits() -> None:
    """The worked probabilities sum to 1.0018; from logits they come normalised."""
    given = Signals(WORKED, LABELS[:1], 3.0 * WORKED_TEACHER.log())
    assert soft_cross_entropy(3.0).compute(given).item() * 1.0018 == pytest.approx(0.5569, abs=5e-5)


def test_the_worked_hard_loss() -> None:
    given = Signals(WORKED, torch.tensor([3]))
    assert hard().compute(given).item() == pytest.approx(-np.log(0.8801), abs=5e-5)


@pytest.mark.parametrize("temperature", [1.0, 3.0, 20.0])
def test_soft_cross_entropy_is_that_of_the_softened_distributions(temperature: float) -> None:
    p, q = softened(TEACHER, temperature), softened(STUDENT, temperature)
    found = soft_cross_entropy(temperature).compute(signals(STUDENT.double(), TEACHER.double())).item()
    assert found == pytest.approx(-(p * np.log(q)).sum(axis=1).mean(), rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0, 20.0])
def test_gradient_of_soft_cross_entropy(temperature: float) -> None:
    expected = (softened(STUDENT, temperature) - softened(TEACHER, temperature)) / temperature
    found = gradient(soft_cross_entropy(temperature), STUDENT[:1].double(), TEACHER[:1].double())
    np.testing.assert_allclose(found, expected[:1], atol=1e-12)


def test_at_a_high_temperature_the_gradient_of_soft_cross_entropy_is_the_difference_of_logits() -> None:
    student, teacher = ((logits - logits.mean(dim=1, keepdim=True))[:1].double() for logits in (STUDENT, TEACHER))
    temperature = 1e4
    found = gradient(soft_cross_entropy(temperature), student, teacher)
    np.testing.assert_allclose(found, (student - teacher) / (4 * temperature**2), rtol=2e-3)


def test_hard_distillation_is_minus_the_logarithm_of_the_share_of_the_teachers_class() -> None:
    shares = softened(STUDENT, 1.0)[[0, 1], [2, 1]]
    assert hard_distillation().compute(signals()).item() == pytest.approx(-np.log(shares).mean(), rel=1e-5)


def test_logits_mse_by_hand() -> None:
    by_hand = (1 + 1 + 4 + 9 + 1 + 2.25 + 9 + 1) / 8
    assert logits_mse().compute(signals()).item() == pytest.approx(by_hand)


def test_half_of_logits_mse_is_soft_at_a_high_temperature() -> None:
    student, teacher = (logits.double() - logits.double().mean(dim=1, keepdim=True) for logits in (STUDENT, TEACHER))
    given = signals(student, teacher)
    assert soft(1e4).compute(given).item() == pytest.approx(logits_mse().compute(given).item() / 2, rel=2e-3)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_both_kls_by_their_formulas(temperature: float) -> None:
    p, q = softened(TEACHER, temperature), softened(STUDENT, temperature)
    given = signals(STUDENT.double(), TEACHER.double())
    forward, reverse = (kl(temperature).compute(given).item() for kl in (forward_kl, reverse_kl))
    assert forward == pytest.approx((p * np.log(p / q)).sum(axis=1).mean(), rel=1e-6)
    assert reverse == pytest.approx((q * np.log(q / p)).sum(axis=1).mean(), rel=1e-6)
    assert soft(temperature).compute(given).item() == pytest.approx(temperature**2 * forward, rel=1e-9)


@pytest.mark.parametrize("mixing", [0.1, 0.5, 0.9])
def test_jensen_shannon_by_its_formula(mixing: float) -> None:
    p, q = softened(TEACHER, 2.0), softened(STUDENT, 2.0)
    m = mixing * p + (1 - mixing) * q
    each = mixing * (p * np.log(p / m)) + (1 - mixing) * (q * np.log(q / m))
    found = jensen_shannon(mixing, 2.0).compute(signals(STUDENT.double(), TEACHER.double())).item()
    assert found == pytest.approx(each.sum(axis=1).mean(), rel=1e-6)


def test_jensen_shannon_of_two_answers_that_exclude_each_other_is_ln_2() -> None:
    apart = torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]])
    assert jensen_shannon().compute(signals(*apart)).item() == pytest.approx(np.log(2))


@pytest.mark.parametrize(("mixing", "share", "tends_to"), [(1e-6, 1e-6, forward_kl), (1 - 1e-6, 1e-6, reverse_kl)])
def test_jensen_shannon_tends_to_both_kls(mixing: float, share: float, tends_to: Callable[[], Loss]) -> None:
    given = signals(STUDENT.double(), TEACHER.double())
    found = jensen_shannon(mixing).compute(given).item() / share
    assert found == pytest.approx(tends_to().compute(given).item(), rel=1e-3)


def decoupled(student: np.ndarray, teacher: np.ndarray, label: int) -> tuple[float, float]:
    """TCKD and NCKD of one sample's probabilities."""
    rest_p, rest_q = (np.delete(each, label) for each in (teacher, student))
    p, q = teacher[label], student[label]
    tckd = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    rest_p, rest_q = rest_p / rest_p.sum(), rest_q / rest_q.sum()
    return tckd, (rest_p * np.log(rest_p / rest_q)).sum()


@pytest.mark.parametrize(("alpha", "beta", "temperature"), [(1.0, 8.0, 4.0), (0.5, 0.0, 1.0), (0.0, 2.0, 2.0)])
def test_dkd_by_its_formula(alpha: float, beta: float, temperature: float) -> None:
    p, q = softened(TEACHER, temperature), softened(STUDENT, temperature)
    pairs = [decoupled(q[sample], p[sample], int(label)) for sample, label in enumerate(LABELS)]
    by_hand = temperature**2 * np.mean([alpha * tckd + beta * nckd for tckd, nckd in pairs])
    found = dkd(alpha, beta, temperature).compute(signals(STUDENT.double(), TEACHER.double())).item()
    assert found == pytest.approx(by_hand, rel=1e-6)


def test_dkd_by_hand() -> None:
    """Teacher (1/2, 1/4, 1/4), student (1/4, 1/2, 1/4), label 0: TCKD = ln(4/3) / 2, NCKD = ln(9/8) / 2."""
    student, teacher = (torch.tensor([shares]).log() for shares in ([0.25, 0.5, 0.25], [0.5, 0.25, 0.25]))
    given = Signals(student, torch.tensor([0]), teacher)
    assert dkd(1.0, 0.0, 1.0).compute(given).item() == pytest.approx(np.log(4 / 3) / 2, rel=1e-5)
    assert dkd(0.0, 1.0, 1.0).compute(given).item() == pytest.approx(np.log(9 / 8) / 2, rel=1e-5)


def test_dkd_with_the_teachers_own_doubt_for_its_beta_is_the_kl() -> None:
    given = signals(STUDENT[:1].double(), TEACHER[:1].double())
    doubt = 1 - softened(TEACHER, 1.0)[0, 3]
    assert dkd(1.0, doubt, 1.0).compute(given).item() == pytest.approx(forward_kl().compute(given).item(), rel=1e-6)


def test_dkd_takes_logits_of_any_size() -> None:
    given = signals(STUDENT * 1e3, TEACHER * 1e3)
    assert torch.isfinite(dkd(1.0, 8.0, 1.0).compute(given))
    assert torch.isfinite(gradient(dkd(1.0, 8.0, 1.0), STUDENT * 1e3, TEACHER * 1e3)).all()


THREE = torch.tensor([[1.0, 2.0, 0.0], [0.5, -1.0, 1.0], [0.0, 0.0, 3.0], [2.0, 1.0, 1.0]], dtype=torch.float64)
OTHER = torch.tensor([[0.0, 2.0, 1.0], [1.5, -1.0, 0.0], [0.3, 0.0, 1.0], [-2.0, 1.0, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize(("beta", "gamma", "temperature"), [(1.0, 0.0, 1.0), (0.0, 1.0, 1.0), (2.0, 3.0, 4.0)])
def test_dist_is_one_less_the_correlations(beta: float, gamma: float, temperature: float) -> None:
    p, q = softened(OTHER, temperature), softened(THREE, temperature)
    inter = np.mean([1 - np.corrcoef(q[row], p[row])[0, 1] for row in range(4)])
    intra = np.mean([1 - np.corrcoef(q[:, column], p[:, column])[0, 1] for column in range(3)])
    given = Signals(THREE, torch.zeros(4, dtype=torch.int64), OTHER)
    found = dist(beta, gamma, temperature).compute(given).item()
    assert found == pytest.approx(temperature**2 * (beta * inter + gamma * intra), rel=1e-9)


def test_dist_of_a_single_sample_compares_its_classes_alone() -> None:
    given = Signals(THREE[:1], LABELS[:1], OTHER[:1])
    p, q = softened(OTHER[:1], 1.0)[0], softened(THREE[:1], 1.0)[0]
    assert dist().compute(given).item() == pytest.approx(1 - np.corrcoef(p, q)[0, 1], rel=1e-9)


def test_dist_of_a_teacher_without_a_preference_is_zero_and_of_such_a_student_is_one() -> None:
    flat = torch.zeros_like(THREE)
    nothing = Signals(THREE, LABELS, flat)
    assert dist().compute(nothing).item() == 0.0
    uncorrelated = Signals(flat, LABELS, THREE)
    assert dist(1.0, 0.0).compute(uncorrelated).item() == pytest.approx(1.0)


ANNEALED = [soft, soft_cross_entropy, forward_kl, reverse_kl]
ANNEALED += [lambda t: jensen_shannon(0.3, t), lambda t: dkd(1.0, 2.0, t), lambda t: dist(1.0, 1.0, t)]


@pytest.mark.parametrize("make", ANNEALED)
def test_the_temperature_follows_the_progress(make: Callable[[Any], Loss]) -> None:
    loss = make(linear(8.0, 2.0))
    for progress, temperature in ((0.0, 8.0), (0.5, 5.0), (1.0, 2.0)):
        now = dataclasses.replace(signals(), progress=progress)
        assert loss.compute(now).item() == pytest.approx(make(temperature).compute(signals()).item(), rel=1e-6)


@pytest.mark.parametrize("make", [hard_distillation, logits_mse, lambda: soft(1.0), lambda: dkd(1.0, 1.0, 1.0), dist])
def test_outputs_of_other_classes_are_refused(make: Callable[[], Loss]) -> None:
    with pytest.raises(UsageError, match=r"\(2, 4\).*\(2, 3\)"):
        make().compute(signals(STUDENT, TEACHER[:, :3]))
