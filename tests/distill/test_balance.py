import pytest
import torch

from edgekd.distill.balance import weighted
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
