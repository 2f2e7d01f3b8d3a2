import copy

import pytest
import torch
from torch import nn

from edgekd.compress.fold import fold_batch_norm
from edgekd.distill import Distiller, Objective, soft_targets, supervised
from edgekd.distill.balance import DynamicAverage, Uncertainty, weighted
from edgekd.distill.examples import Examples
from edgekd.distill.losses import Loss, Signals, adversarial, feature_mse, hard, hint, soft
from edgekd.distill.schedules import linear
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


def hinted(**more: Loss) -> Objective:
    """A hint from the teacher's wider layer."""
    losses = {"hint": hint("0", "0"), **more}
    return Objective(losses, weighted(dict.fromkeys(losses, 1.0)))


def test_what_an_objective_learns_is_among_the_parameters_once_prepared() -> None:
    student, inputs = network(0), batch()[0]
    distiller = Distiller(student, network(1, width=12), hinted(game=adversarial(hidden=7)))
    distiller.prepare(inputs)
    assert [id(value) for value in distiller.parameters()] == [
        id(value) for value in (*student.parameters(), *distiller.learned.parameters())
    ]
    shapes = {name: tuple(value.shape) for name, value in distiller.learned.named_parameters()}
    assert shapes["loss_hint.weight"] == (12, 8)
    assert shapes["loss_game.discriminator.inner.weight"] == (7, 3)


def test_parameters_that_are_still_to_be_made_are_refused() -> None:
    distiller = Distiller(network(0), network(1, width=12), hinted())
    with pytest.raises(UsageError, match=r"'hint'.*prepare\(\)"):
        torch.optim.SGD(distiller.parameters(), lr=0.1)


def test_preparing_leaves_the_student_as_it_was() -> None:
    student = network(0)
    student[1].eval()
    before = snapshot(student)
    Distiller(student, network(1, width=12), hinted()).prepare(batch()[0])
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert [module.training for module in student] == [True, False, True, True, True]
    assert all(parameter.grad is None for parameter in student.parameters())


def test_preparing_twice_makes_it_once() -> None:
    distiller = Distiller(network(0), network(1, width=12), hinted())
    distiller.prepare(batch()[0])
    made = distiller.learned["loss_hint"]
    distiller.prepare(batch()[0])
    distiller(*batch())
    assert distiller.learned["loss_hint"] is made


def test_an_objective_that_learns_nothing_is_prepared_without_running_a_model() -> None:
    student = network(0)
    student.register_forward_hook(lambda *_: pytest.fail("the student ran"))
    Distiller(student, None, soft_targets(4.0, 0.5)).prepare(batch()[0])


def test_without_preparation_the_first_batch_makes_what_is_learned() -> None:
    distiller = Distiller(network(0), network(1, width=12), hinted())
    loss, _ = distiller(*batch())
    loss.backward()
    assert distiller.learned["loss_hint"].weight.grad.abs().sum() > 0


def test_two_distillers_of_one_objective_share_nothing() -> None:
    objective = Objective({"hint": hint("0", "0")}, Uncertainty({"hint": 1.0}))
    one, other = (Distiller(network(0), network(1, width=12), objective) for _ in range(2))
    for distiller in (one, other):
        distiller.prepare(batch()[0])
    assert not {id(value) for value in one.parameters()} & {id(value) for value in other.parameters()}


def test_the_state_has_the_student_and_what_is_learned_and_not_the_teacher() -> None:
    def prepared(seed: int) -> Distiller:
        distiller = Distiller(
            network(seed), network(1, width=12), Objective({"hint": hint("0", "0")}, Uncertainty({"hint": 1.0}))
        )
        distiller.prepare(batch()[0])
        return distiller

    one, other = prepared(2), prepared(3)
    state = one.state_dict()
    assert {name.partition(".")[0] for name in state} == {"student", "learned"}
    other.load_state_dict(state)
    one.student.eval(), other.student.eval()
    assert torch.equal(one(*batch())[0], other(*batch())[0])


def test_a_balance_that_learns_is_trained() -> None:
    objective = Objective({"hard": hard(), "soft": soft(2.0)}, Uncertainty({"hard": 1.0, "soft": 1.0}))
    distiller = Distiller(network(0), network(1), objective)
    loss, _ = distiller(*batch())
    loss.backward()
    assert distiller.learned["balance"].log_variances.grad.abs().min() > 0


def test_train_mode_does_not_reach_the_teacher() -> None:
    distiller = Distiller(network(0), network(1), soft_targets(4.0, 0.5)).train()
    assert distiller.student.training
    assert not distiller.teacher.training


def test_progress_reaches_losses_and_balance() -> None:
    student, teacher, (inputs, labels) = network(0).eval(), network(1), batch()
    annealed = Objective({"soft": soft(linear(8.0, 2.0))}, weighted({"soft": linear(0.0, 1.0)}))
    loss, parts = Distiller(student, teacher, annealed)(inputs, labels, progress=0.5)
    expected = soft(5.0).compute(Signals(student(inputs), labels, teacher(inputs)))
    assert parts["soft"].item() == pytest.approx(expected.item())
    assert loss.item() == pytest.approx(0.5 * expected.item())


def test_half_precision_is_widened_before_a_loss_looks_at_it() -> None:
    student, teacher, (inputs, labels) = network(0).eval().bfloat16(), network(1).bfloat16(), batch()
    seen: list[torch.dtype] = []

    def compute(signals: Signals) -> torch.Tensor:
        seen.extend([signals.student.dtype, signals.teacher.dtype, signals.student_taps["0"].dtype])
        return signals.student.sum()

    spy = Loss(compute, needs_teacher=True, student_taps=("0",))
    loss, _ = Distiller(student, teacher, Objective({"spy": spy}, weighted({"spy": 1.0})))(inputs.bfloat16(), labels)
    loss.backward()
    assert set(seen) == {torch.float32}
    assert student[0].weight.grad.dtype == torch.bfloat16


class Pair(nn.Module):
    """Two tensors, as a layer of transformers returns; or none at all."""

    def __init__(self, nothing: bool = False) -> None:
        super().__init__()
        self.inner, self.nothing = nn.Linear(6, 3), nothing

    def forward(self, inputs: torch.Tensor) -> object:
        return {"hidden": self.inner(inputs)} if self.nothing else (self.inner(inputs), inputs)


class First(nn.Module):
    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.pair = pair

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found = self.pair(inputs)
        return found["hidden"] if isinstance(found, dict) else found[0]


def test_of_a_layer_that_returns_several_tensors_the_first_is_tapped() -> None:
    student, (inputs, labels) = network(0).eval(), batch()
    teacher = First(Pair())
    objective = Objective({"hint": feature_mse("4", "pair")}, weighted({"hint": 1.0}))
    loss, _ = Distiller(student, teacher, objective)(inputs, labels)
    assert loss.item() == pytest.approx((student(inputs) - teacher(inputs)).square().mean().item(), rel=1e-5)


def test_a_layer_that_gives_no_tensor_is_refused() -> None:
    objective = Objective({"hint": feature_mse("4", "pair")}, weighted({"hint": 1.0}))
    with pytest.raises(UsageError, match="'pair' gives dict"):
        Distiller(network(0), First(Pair(nothing=True)), objective)(*batch())


def test_a_trainer_trains_what_is_learned_and_closes_the_epochs() -> None:
    balance = DynamicAverage({"hint": 1.0, "game": 0.1})
    objective = Objective({"hint": hint("0", "0"), "game": adversarial()}, balance)
    inputs, labels = batch(64)
    distiller = Distiller(network(0), network(1, width=12), objective)
    torch.manual_seed(0)
    distiller.prepare(inputs)
    before = copy.deepcopy(distiller.learned.state_dict())
    fit(distiller, Examples(inputs[None], labels), Training(epochs=3, batch_size=16), 0)
    after = distiller.learned.state_dict()
    moved = {
        name for name, value in after.items() if value.shape == before[name].shape and not value.equal(before[name])
    }
    assert {name.split(".")[0] for name in moved} == {"loss_hint", "loss_game", "balance"}
    assert not torch.equal(distiller.learned["balance"].lambdas(), torch.ones(2))
    assert torch.equal(balance.lambdas(), torch.ones(2))


def test_progress_goes_from_nothing_to_almost_all_over_a_training() -> None:
    seen: list[float] = []

    def compute(signals: Signals) -> torch.Tensor:
        seen.append(signals.progress)
        return signals.student.square().mean()

    inputs, labels = batch(32)
    distiller = Distiller(network(0), None, Objective({"spy": Loss(compute)}, weighted({"spy": 1.0})))
    fit(distiller, Examples(inputs[None], labels), Training(epochs=2, batch_size=16), 0)
    assert seen == [0.0, 0.25, 0.5, 0.75]
