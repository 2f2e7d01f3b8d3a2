"""What holds for every loss: right gradients, no value out of nothing, and gradient descent makes it fall."""

from dataclasses import replace

import pytest
import torch

from edgekd.distill import Distiller, Objective, losses
from edgekd.distill.balance import weighted
from edgekd.distill.losses import Loss
from tests.distill.losses.every import CASES, LABELS, Case, Toy, built, leaves, signals, unlabelled, with_gradients

each = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def test_every_loss_of_the_package_is_here() -> None:
    made = {name.partition(" of ")[0].replace("-", "_") for name in CASES}
    assert made | {"UNLABELLED", "Loss", "Signals"} == set(losses.__all__)


@each
def test_gradients_are_those_of_finite_differences(case: Case) -> None:
    loss = case.make()
    given = built(loss, with_gradients(signals(case.labels)))
    if loss.rival is None:
        assert torch.autograd.gradcheck(lambda *_: loss.compute(given), leaves(given))
    else:
        carry = list(given.learned["carry"].parameters())
        assert torch.autograd.gradcheck(
            lambda *_: loss.compute(given), [given.student, *given.student_taps.values(), *carry]
        )
        rivals = list(given.learned["discriminator"].parameters())
        assert torch.autograd.gradcheck(lambda *_: loss.rival(given), rivals)


@each
def test_single_precision_agrees_with_double(case: Case) -> None:
    loss = case.make()
    double, single = (built(loss, signals(case.labels, dtype=dtype)) for dtype in (torch.float64, torch.float32))
    assert loss.compute(single).item() == pytest.approx(loss.compute(double).item(), rel=1e-4)


@each
def test_a_batch_of_one_gives_a_finite_loss_and_gradient(case: Case) -> None:
    loss = case.make()
    given = built(loss, with_gradients(signals(case.labels, count=1)))
    value = loss.compute(given)
    value.backward()
    assert value.shape == ()
    assert torch.isfinite(value)
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves(given) if leaf.grad is not None)


RELATIONS = [name for name in CASES if name.startswith(("rkd", "similarity"))]


@pytest.mark.parametrize("name", RELATIONS)
def test_a_single_sample_has_no_relations(name: str) -> None:
    assert CASES[name].make().compute(signals(count=1)).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("name", ["hard", "dkd", "hard-binary", "hard-mse", "hard-l1"])
def test_without_any_label_a_loss_over_labels_is_zero_and_so_are_its_gradients(name: str) -> None:
    case = CASES[name]
    given = with_gradients(signals(case.labels))
    value = case.make().compute(replace(given, labels=unlabelled(given.labels)))
    value.backward()
    assert value.item() == 0.0
    assert torch.equal(given.student.grad, torch.zeros_like(given.student))


@pytest.mark.parametrize("name", ["hard", "dkd", "hard-binary", "hard-mse", "hard-l1"])
@pytest.mark.parametrize("labelled", [1, 2, 4])
def test_unlabelled_samples_are_skipped_whatever_their_share(name: str, labelled: int) -> None:
    case, loss = CASES[name], CASES[name].make()
    given = with_gradients(signals(case.labels))
    labels = given.labels.clone()
    labels[labelled:] = unlabelled(labels[labelled:])
    value = loss.compute(replace(given, labels=labels))
    value.backward()
    alone = replace(
        given,
        student=given.student.detach()[:labelled],
        teacher=given.teacher[:labelled],
        labels=given.labels[:labelled],
    )
    assert value.item() == pytest.approx(loss.compute(alone).item(), rel=1e-12)
    assert torch.equal(given.student.grad[labelled:], torch.zeros_like(given.student[labelled:]))
    assert given.student.grad[:labelled].abs().sum() > 0


@pytest.mark.parametrize(
    "name", [name for name in CASES if name not in ("hard", "dkd", "hard-binary", "hard-mse", "hard-l1")]
)
def test_other_losses_do_not_look_at_labels(name: str) -> None:
    case, loss = CASES[name], CASES[name].make()
    given = built(loss, signals(case.labels))
    without = loss.compute(replace(given, labels=unlabelled(given.labels)))
    assert torch.equal(without, loss.compute(given))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.falls_to_zero])
def test_a_student_that_is_the_teacher_has_no_loss(name: str) -> None:
    case = CASES[name]
    given = signals(case.labels)
    given = with_gradients(replace(given, student=given.teacher, student_taps=given.teacher_taps))
    value = case.make().compute(given)
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-12)
    for leaf in leaves(given):
        assert leaf.grad is None or leaf.grad.abs().max() < 1e-6


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.falls_to_zero])
def test_a_student_that_is_not_the_teacher_has_one(name: str) -> None:
    assert CASES[name].make().compute(signals(CASES[name].labels)).item() > 1e-3


@each
def test_samples_that_are_all_the_same_give_a_finite_gradient(case: Case) -> None:
    """Dead units make the same features of every sample: distances of zero, correlations of nothing."""
    loss = case.make()
    given = signals(case.labels)
    given = with_gradients(
        replace(
            given,
            student=torch.zeros_like(given.student),
            student_taps={name: torch.zeros_like(value) for name, value in given.student_taps.items()},
        )
    )
    given = built(loss, given)
    value = loss.compute(given)
    value.backward()
    assert torch.isfinite(value)
    for leaf in leaves(given):
        assert leaf.grad is None or (torch.isfinite(leaf.grad).all() and leaf.grad.abs().max() < 100)


def falls(loss: Loss, labels: str, step: float) -> tuple[float, float]:
    """The loss on a toy pair before and after 20 steps of gradient descent."""
    student, teacher = Toy(2, 2, seed=0), Toy(3, 4, seed=1, certainty=4.0)
    distiller = Distiller(student, teacher, Objective({"it": loss}, weighted({"it": 1.0})))
    inputs = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(4)
    distiller.prepare(inputs)
    trained = [value for name, value in distiller.named_parameters() if "discriminator" not in name]
    optimizer = torch.optim.SGD(trained, lr=step)
    history = []
    for _ in range(21):
        loss_now, _ = distiller(inputs, LABELS[labels](5))
        optimizer.zero_grad()
        loss_now.backward()
        optimizer.step()
        history.append(loss_now.item())
    return history[0], history[-1]


@each
def test_twenty_steps_of_gradient_descent_make_it_fall(case: Case) -> None:
    before, after = falls(case.make(), case.labels, case.step)
    assert after < 0.97 * before
