import copy

import pytest
import torch
from torch import nn

from edgekd.compress.fold import fold_batch_norm
from edgekd.distill import Distiller, Objective, soft_targets, supervised
from edgekd.distill.balance import weighted
from edgekd.distill.examples import Examples
from edgekd.distill.losses import Loss, Signals, feature_mse, hard, soft
from edgekd.distill.trainer import fit
from edgekd.errors import UsageError
from edgekd.recipe import Training


def network(seed: int, width: int = 8) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.5), nn.Linear(width, 3))


def batch(count: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 6, generator=generator)
    return inputs, inputs[:, :3].argmax(dim=1)


def snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(module.state_dict())


def test_a_training_step_leaves_the_teacher_as_it_was() -> None:
    student, teacher = network(0), network(1).train()
    before = snapshot(teacher)
    distiller = Distiller(student, teacher, soft_targets(4.0, 0.9))
    optimizer = torch.optim.SGD([*student.parameters(), *teacher.parameters()], lr=1.0)
    loss, _ = distiller(*batch())
    loss.backward()
    optimizer.step()
    assert not teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_cached_outputs_give_the_loss_of_the_online_teacher() -> None:
    student, teacher, (inputs, labels) = network(0).eval(), network(1).eval(), batch()
    objective = soft_targets(4.0, 0.7)
    with torch.no_grad():
        cached = teacher(inputs)
    online, _ = Distiller(student, teacher, objective)(inputs, labels)
    offline, _ = Distiller(student, None, objective)(inputs, labels, cached)
    assert torch.equal(online, offline)


def test_given_outputs_are_used_instead_of_the_teacher() -> None:
    student, teacher, (inputs, labels) = network(0).eval(), network(1), batch()
    distiller = Distiller(student, teacher, soft_targets(4.0, 1.0))
    with torch.no_grad():
        own = student(inputs)
    loss, _ = distiller(inputs, labels, own)
    assert loss.item() == pytest.approx(0.0, abs=1e-6)


def test_the_loss_is_hard_and_soft_by_their_weights() -> None:
    student, teacher, (inputs, labels) = network(0).eval(), network(1).eval(), batch()
    loss, parts = Distiller(student, teacher, soft_targets(2.0, 0.75))(inputs, labels)
    signals = Signals(student(inputs), labels, teacher(inputs))
    assert parts["hard"].item() == pytest.approx(hard().compute(signals).item())
    assert parts["soft"].item() == pytest.approx(soft(2.0).compute(signals).item())
    assert loss.item() == pytest.approx(0.25 * parts["hard"].item() + 0.75 * parts["soft"].item())
    assert not any(part.requires_grad for part in parts.values())


def test_supervised_needs_no_teacher() -> None:
    student, (inputs, labels) = network(0).eval(), batch()
    loss, _ = Distiller(student, None, supervised())(inputs, labels)
    assert loss.item() == pytest.approx(hard().compute(Signals(student(inputs), labels)).item())


def alike(layer: str) -> Loss:
    """One less the cosine between two layers: a loss that this package does not have."""

    def compute(signals: Signals) -> torch.Tensor:
        pair = signals.student_taps[layer].flatten(1), signals.teacher_taps[layer].flatten(1)
        return 1.0 - nn.functional.cosine_similarity(*pair).mean()

    return Loss(compute, student_taps=(layer,), teacher_taps=(layer,))


def test_a_custom_objective_over_layers_is_trained() -> None:
    objective = Objective({"hint": feature_mse("2", "2"), "angle": alike("0")}, weighted({"hint": 1.0, "angle": 0.5}))
    student, teacher, (inputs, labels) = network(0), network(1), batch(64)
    before = snapshot(teacher)
    distiller = Distiller(student, teacher, objective)
    _, untrained = distiller(inputs, labels)
    history = fit(distiller, Examples(inputs[None], labels), Training(epochs=40, batch_size=16, learning_rate=0.02), 0)
    _, trained = distiller(inputs, labels)
    assert history[-1] < 0.5 * history[0]
    assert trained["hint"] < 0.3 * untrained["hint"]
    assert trained["angle"] < untrained["angle"]
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_layers_are_tapped_from_an_online_teacher_although_its_outputs_are_given() -> None:
    student, teacher, (inputs, labels) = network(0).eval(), network(1), batch()
    objective = Objective({"hint": feature_mse("0", "0")}, weighted({"hint": 1.0}))
    loss, _ = Distiller(student, teacher, objective)(inputs, labels, torch.zeros(16, 3))
    assert loss.item() == pytest.approx((student[0](inputs) - teacher[0](inputs)).square().mean().item(), rel=1e-5)


def test_a_student_whose_layers_were_tapped_can_be_compressed() -> None:
    objective = Objective({"hint": feature_mse("1", "1")}, weighted({"hint": 1.0}))
    student, (inputs, labels) = network(0).eval(), batch()
    distiller = Distiller(student, network(1), objective)
    folded = fold_batch_norm(student, inputs[:1])
    torch.testing.assert_close(folded(inputs), student(inputs))
    loss, _ = distiller(inputs, labels)
    assert torch.isfinite(loss)


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_missing_layer_is_refused_with_the_nearest_name(side: str) -> None:
    models = {"student": nn.Sequential(), "teacher": nn.Sequential()}
    for model in models.values():
        model.add_module("encoder", nn.Linear(6, 3))
    layers = {"student": "encoder", "teacher": "encoder", side: "encodr"}
    objective = Objective({"hint": feature_mse(layers["student"], layers["teacher"])}, weighted({"hint": 1.0}))
    with pytest.raises(UsageError, match=r"'encodr'.*did you mean 'encoder'\?"):
        Distiller(models["student"], models["teacher"], objective)


def test_an_objective_that_needs_a_teacher_is_refused_without_one() -> None:
    with pytest.raises(UsageError, match="teacher"):
        Distiller(network(0), None, soft_targets(4.0, 0.5))(*batch())


def test_an_objective_over_the_teachers_layers_is_refused_without_one() -> None:
    objective = Objective({"hint": feature_mse("0", "0")}, weighted({"hint": 1.0}))
    with pytest.raises(UsageError, match="teacher"):
        Distiller(network(0), None, objective)
