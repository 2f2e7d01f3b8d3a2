import numpy as np
import pytest
import torch

from edgekd.distill.losses import Signals, binary_soft, hard_binary, hard_l1, hard_mse, output_l1, output_mse
from edgekd.distill.schedules import linear
from edgekd.errors import UsageError

STUDENT = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], dtype=torch.float64)
TEACHER = torch.tensor([[2.0, -1.0, 0.0], [-1.0, 4.0, -3.0]], dtype=torch.float64)
NAN = float("nan")


def share(logits: torch.Tensor, temperature: np.ndarray | float = 1.0) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.numpy() / temperature))


def test_hard_binary_is_the_mean_of_minus_the_logarithms_of_the_entries_that_are_labelled() -> None:
    q = share(STUDENT)
    by_hand = -(np.log(q[0, 0]) + np.log(1 - q[0, 1]) + np.log(q[1, 1])) / 3
    labels = torch.tensor([[1, 0, -1], [-1, 1, -1]])
    assert hard_binary().compute(Signals(STUDENT, labels)).item() == pytest.approx(by_hand, rel=1e-12)
    assert hard_binary().compute(Signals(STUDENT, labels.double())).item() == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 3.0, (1.0, 2.0, 5.0)])
def test_binary_soft_by_its_formula(temperature: float | tuple[float, ...]) -> None:
    softness = np.broadcast_to(np.asarray(temperature), (2, 3))
    p, q = share(TEACHER, softness), share(STUDENT, softness)
    divergence = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    found = binary_soft(temperature).compute(Signals(STUDENT, torch.zeros(2, 3), TEACHER)).item()
    assert found == pytest.approx((softness**2 * divergence).mean(), rel=1e-9)


def test_gradient_of_binary_soft() -> None:
    softness = np.array([1.0, 2.0, 5.0])
    student = STUDENT.clone().requires_grad_()
    binary_soft(softness.tolist()).compute(Signals(student, torch.zeros(2, 3), TEACHER)).backward()
    expected = softness * (share(STUDENT, softness) - share(TEACHER, softness)) / 6
    np.testing.assert_allclose(student.grad, expected, atol=1e-12)


def test_binary_soft_takes_logits_of_any_size() -> None:
    given = Signals(STUDENT * 1e4, torch.zeros(2, 3), TEACHER * -1e4)
    assert torch.isfinite(binary_soft(1.0).compute(given))


def test_the_temperature_of_binary_soft_follows_the_progress() -> None:
    now = Signals(STUDENT, torch.zeros(2, 3), TEACHER, progress=0.5)
    assert binary_soft(linear(4.0, 2.0)).compute(now).item() == pytest.approx(binary_soft(3.0).compute(now).item())


def test_temperatures_for_other_classes_are_refused() -> None:
    with pytest.raises(UsageError, match="2 temperatures for 3 classes"):
        binary_soft([1.0, 2.0]).compute(Signals(STUDENT, torch.zeros(2, 3), TEACHER))


LABELS = torch.tensor([[0.0, NAN, 1.0], [NAN, 1.0, 2.0]])


def test_regression_to_the_labels_that_are_known_by_hand() -> None:
    given = Signals(STUDENT, LABELS)
    assert hard_mse().compute(given).item() == pytest.approx((1 + 0.25 + 4 + 9) / 4)
    assert hard_l1().compute(given).item() == pytest.approx((1 + 0.5 + 2 + 3) / 4)


def test_regression_to_the_teacher_by_hand() -> None:
    given = Signals(STUDENT, LABELS, TEACHER)
    assert output_mse().compute(given).item() == pytest.approx((1 + 1 + 0.25 + 1 + 1 + 4) / 6)
    assert output_l1().compute(given).item() == pytest.approx((1 + 1 + 0.5 + 1 + 1 + 2) / 6)


@pytest.mark.parametrize("make", [hard_binary, hard_mse, hard_l1])
def test_labels_of_another_shape_are_refused_and_not_broadcast(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match=r"\(2, 3\).*\(2, 1\)"):
        make().compute(Signals(STUDENT, torch.zeros(2, 1)))


@pytest.mark.parametrize("make", [output_mse, output_l1, lambda: binary_soft(1.0)])
def test_a_teacher_of_another_shape_is_refused_and_not_broadcast(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match=r"\(2, 3\).*\(2, 1\)"):
        make().compute(Signals(STUDENT, LABELS, TEACHER[:, :1]))
