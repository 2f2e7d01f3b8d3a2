import numpy as np
import pytest
import torch

from edgekd.distill.losses import Loss, Signals, feature_mse, hard, soft

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


def test_feature_mse_is_the_mean_squared_difference() -> None:
    mine, theirs = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    tapped = Signals(STUDENT, LABELS, student_taps={"a": mine}, teacher_taps={"b": theirs})
    assert feature_mse("a", "b").compute(tapped).item() == pytest.approx((4 + 9) / 4)


def test_losses_say_what_they_need() -> None:
    assert not hard().needs_teacher
    assert soft(1.0).needs_teacher
    assert feature_mse("a", "b").student_taps == ("a",)
    assert feature_mse("a", "b").teacher_taps == ("b",)
