"""From what a user writes in a recipe to an objective."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import nn

from edgekd.config import read_config
from edgekd.distill import Distiller, Objective, losses, supervised
from edgekd.distill.balance import DynamicAverage, Uncertainty
from edgekd.distill.config import REFUSED, LossTable, ObjectiveConfig, Outputs, short_form
from edgekd.distill.losses import Loss, Signals
from edgekd.distill.objectives import build_objective
from edgekd.errors import UsageError
from tests.distill.losses.every import built, signals

LAYERS = 'student_layer = "map"\nteacher_layer = "map"'
OVER_LAYERS = ("feature-mse", "hint", "attention-transfer")
KINDS = [get_args(table.__dataclass_fields__["kind"].type)[0] for table in get_args(get_args(LossTable)[0])]
OUTPUTS: tuple[Outputs, ...] = get_args(Outputs)


def read(text: str) -> ObjectiveConfig:
    return read_config(ObjectiveConfig, text, "my.toml")


def refused(text: str, outputs: Outputs = "classification") -> str:
    with pytest.raises(UsageError) as error:
        build_objective(read(text), outputs)
    message = str(error.value)
    assert "\n" not in message
    return message


def table(kind: str, settings: str = "") -> str:
    return f'[[losses]]\nkind = "{kind}"\n{LAYERS if kind in OVER_LAYERS else ""}\n{settings}\n'


def value(objective: Objective, labels: str = "classes") -> float:
    (loss,) = objective.losses.values()
    return loss.compute(built(loss, signals(labels))).item()


def expected(loss: Loss, labels: str = "classes") -> float:
    return loss.compute(built(loss, signals(labels))).item()


WRITTEN: Mapping[str, tuple[str, Loss]] = {
    "hard": ("", losses.hard()),
    "soft": ("temperature = 3.0", losses.soft(3.0)),
    "soft-cross-entropy": ("temperature = 3.0", losses.soft_cross_entropy(3.0)),
    "hard-distillation": ("", losses.hard_distillation()),
    "logits-mse": ("", losses.logits_mse()),
    "forward-kl": ("temperature = 3.0", losses.forward_kl(3.0)),
    "reverse-kl": ("temperature = 3.0", losses.reverse_kl(3.0)),
    "jensen-shannon": ("mixing = 0.2\ntemperature = 3.0", losses.jensen_shannon(0.2, 3.0)),
    "dkd": ("alpha = 0.5\nbeta = 2.0\ntemperature = 3.0", losses.dkd(0.5, 2.0, 3.0)),
    "dist": ("beta = 0.5\ngamma = 2.0\ntemperature = 3.0", losses.dist(0.5, 2.0, 3.0)),
    "hint": (LAYERS, losses.hint("map", "map")),
    "attention-transfer": (LAYERS, losses.attention_transfer("map", "map")),
    "feature-mse": ('student_layer = "same"\nteacher_layer = "same"', losses.feature_mse("same", "same")),
    "rkd-distance": (LAYERS, losses.rkd_distance("map", "map")),
    "rkd-angle": ("", losses.rkd_angle()),
    "similarity-preserving": ("", losses.similarity_preserving()),
    "adversarial": (f"{LAYERS}\nhidden = 9", losses.adversarial("map", "map", 9)),
}
WRITTEN_ELSEWHERE: Mapping[tuple[str, Outputs], tuple[str, Loss]] = {
    ("hard", "multi-label"): ("", losses.hard_binary()),
    ("binary-soft", "multi-label"): ("temperature = [1.0, 2.0, 3.0, 4.0]", losses.binary_soft([1.0, 2.0, 3.0, 4.0])),
    ("logits-mse", "multi-label"): ("", losses.logits_mse()),
    ("hard", "regression"): ("", losses.hard_mse()),
    ("hard-l1", "regression"): ("", losses.hard_l1()),
    ("output-mse", "regression"): ("", losses.output_mse()),
    ("output-l1", "regression"): ("", losses.output_l1()),
}
LABELS = {"classification": "classes", "multi-label": "binary", "regression": "numbers"}


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_kind_is_the_loss_of_its_name_with_its_settings(kind: str) -> None:
    settings, loss = WRITTEN[kind]
    objective = build_objective(read(f'[[losses]]\nkind = "{kind}"\n{settings}'))
    assert list(objective.losses) == [kind]
    assert value(objective) == expected(loss)
    assert objective.losses[kind].student_taps == loss.student_taps


@pytest.mark.parametrize(("kind", "outputs"), WRITTEN_ELSEWHERE)
def test_a_kind_is_the_loss_that_fits_the_outputs(kind: str, outputs: Outputs) -> None:
    settings, loss = WRITTEN_ELSEWHERE[kind, outputs]
    objective = build_objective(read(f'[[losses]]\nkind = "{kind}"\n{settings}'), outputs)
    assert value(objective, LABELS[outputs]) == expected(loss, LABELS[outputs])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("outputs", OUTPUTS)
def test_every_kind_is_made_or_refused_with_its_reason(kind: str, outputs: Outputs) -> None:
    reason = REFUSED[outputs].get(kind)
    if reason is None:
        assert list(build_objective(read(table(kind)), outputs).losses) == [kind]
    else:
        assert refused(table(kind), outputs) == f"loss '{kind}' is not for {outputs}: {reason}"


def test_every_kind_is_written_above() -> None:
    assert set(WRITTEN) | {kind for kind, _ in WRITTEN_ELSEWHERE} == set(KINDS)


@pytest.mark.parametrize(
    ("outputs", "allowed"),
    [
        ("multi-label", {"hard", "binary-soft", "logits-mse"}),
        ("regression", {"hard", "hard-l1", "output-mse", "output-l1"}),
    ],
)
def test_features_make_sense_for_all_outputs_and_softmax_for_classes_alone(outputs: Outputs, allowed: set[str]) -> None:
    features = {*OVER_LAYERS, "rkd-distance", "rkd-angle", "similarity-preserving", "adversarial"}
    assert set(KINDS) - REFUSED[outputs].keys() == allowed | features


def test_what_a_user_writes() -> None:
    text = """
    [[losses]]
    kind = "hard"
    weight = 0.1

    [[losses]]
    kind = "dkd"
    weight = 0.9
    alpha = 1.0
    beta = 8.0
    temperature = 4.0

    [[losses]]
    kind = "rkd-distance"
    weight = 25

    [[losses]]
    kind = "rkd-distance"
    student_layer = "map"
    teacher_layer = "flat"
    """
    objective = build_objective(read(text))
    assert list(objective.losses) == ["hard", "dkd", "rkd-distance", "rkd-distance-2"]
    assert objective.needs_teacher
    assert objective.student_taps == ("map",)
    assert objective.teacher_taps == ("flat",)
    parts = {name: torch.tensor(1.0) for name in objective.losses}
    assert objective.balance(parts).item() == pytest.approx(0.1 + 0.9 + 25.0 + 1.0)


@pytest.mark.parametrize(
    ("outputs", "hard", "soft"),
    [
        ("classification", losses.hard(), losses.soft(3.0)),
        ("multi-label", losses.hard_binary(), losses.binary_soft(3.0)),
        ("regression", losses.hard_mse(), losses.output_mse()),
    ],
)
def test_each_kind_of_output_learns_from_labels_and_teacher(outputs: Outputs, hard: Loss, soft: Loss) -> None:
    random = torch.Generator().manual_seed(0)
    student, teacher, numbers = torch.randn(3, 6, 4, generator=random)
    labels = {"classification": numbers.argmax(1), "multi-label": (numbers > 0).long(), "regression": numbers}[outputs]
    given = Signals(student, labels, teacher)
    expected = 0.75 * hard.compute(given) + 0.25 * soft.compute(given)
    objective = build_objective(short_form(None if outputs == "regression" else 3.0, 0.25, outputs), outputs)
    found, _ = Distiller(nn.Identity(), None, objective)(student, labels, teacher)
    torch.testing.assert_close(found, expected)
    alone, _ = Distiller(nn.Identity(), None, supervised(outputs))(student, labels)
    torch.testing.assert_close(alone, hard.compute(given))


def test_defaults_are_those_of_the_papers() -> None:
    assert value(build_objective(read(table("dkd")))) == expected(losses.dkd(1.0, 8.0, 4.0))
    assert value(build_objective(read(table("soft")))) == expected(losses.soft(4.0))


@pytest.mark.parametrize(("kind", "share"), [("linear", 0.25), ("cosine", 0.5 - 0.5**1.5)])
def test_a_temperature_and_a_weight_are_annealed(kind: str, share: float) -> None:
    settings = f"""
    temperature = {{ kind = "{kind}", start = 8, end = 2 }}
    weight = {{ kind = "{kind}", start = 0, end = 3 }}
    """
    objective = build_objective(read(table("soft", settings)))
    quarter = objective.losses["soft"].compute(replace(signals(), progress=0.25))
    assert quarter.item() == pytest.approx(expected(losses.soft(8.0 - 6.0 * share)), rel=1e-9)
    assert objective.balance({"soft": torch.tensor(2.0)}, 0.25).item() == pytest.approx(6.0 * share)


BOTH = table("hard", "weight = 0.5") + table("soft", "weight = 2.0")


def test_the_balances_by_name() -> None:
    parts = {"hard": torch.tensor(1.0), "soft": torch.tensor(10.0)}
    assert build_objective(read(BOTH)).balance(parts).item() == pytest.approx(20.5)
    constant = build_objective(read(BOTH + '[balance]\nkind = "constant"'))
    assert constant.balance(parts).item() == pytest.approx(20.5)
    staged = build_objective(read(BOTH + '[balance]\nkind = "two-stage"\nswitch = 0.3')).balance
    assert [staged(parts, progress).item() for progress in (0.2, 0.4)] == pytest.approx([20.0, 0.5])
    learned = build_objective(read(BOTH + '[balance]\nkind = "uncertainty"')).balance
    assert isinstance(learned, Uncertainty)
    assert torch.exp(-learned.log_variances).tolist() == pytest.approx([0.5, 2.0])
    dynamic = build_objective(read(BOTH + '[balance]\nkind = "dynamic-average"\ntemperature = 3.0')).balance
    assert isinstance(dynamic, DynamicAverage)
    assert dynamic.temperature == 3.0
    assert dynamic(parts).item() == pytest.approx(20.5)


def test_the_first_stage_is_all_that_looks_at_the_teacher() -> None:
    text = table("hard") + table("dkd") + table("hint") + '[balance]\nkind = "two-stage"'
    balance = build_objective(read(text)).balance
    parts = {"hard": torch.tensor(1.0), "dkd": torch.tensor(10.0), "hint": torch.tensor(100.0)}
    assert [balance(parts, progress).item() for progress in (0.0, 0.49, 0.5)] == [110.0, 110.0, 1.0]


WRONG = {
    "a temperature of zero": (table("soft", "temperature = 0"), ("losses.0.temperature", "greater than 0")),
    "a negative temperature": (table("dkd", "temperature = -1.0"), ("losses.0.temperature", "greater than 0")),
    "a temperature that ends at zero": (
        table("soft", 'temperature = { kind = "linear", start = 4, end = 0 }'),
        ("losses.0.temperature.end", "greater than 0"),
    ),
    "a temperature of a class that is zero": (
        table("binary-soft", "temperature = [1, 0]"),
        ("losses.0.temperature.1", "greater than 0"),
    ),
    "a negative weight": (table("hard") + table("soft", "weight = -0.5"), ("losses.1.weight", "or equal to 0")),
    "a weight that becomes negative": (
        table("soft", 'weight = { kind = "linear", start = 1, end = -1 }'),
        ("losses.0.weight.end", "or equal to 0"),
    ),
    "weights that sum to nothing": (
        table("hard", "weight = 0") + table("soft", "weight = 0.0"),
        ("sum to nothing",),
    ),
    "annealed weights that sum to nothing": (
        table("soft", 'weight = { kind = "cosine", start = 0, end = 0 }'),
        ("sum to nothing",),
    ),
    "no losses": ("losses = []", ("losses", "at least 1")),
    "nothing": ("", ("losses", "missing")),
    "another kind": (table("sofft"), ("losses.0.kind", "must be one of", "'soft'", "'sofft'")),
    "no kind": ("[[losses]]\nweight = 1.0", ("losses.0.kind", "missing")),
    "a misspelt setting": (table("dkd", "temprature = 4.0"), ("losses.0.temprature", "did you mean 'temperature'?")),
    "a setting of another loss": (table("soft", "alpha = 1.0"), ("unknown key 'losses.0.alpha'",)),
    "a misspelt setting of a schedule": (
        table("soft", 'temperature = { kind = "linear", start = 4, end = 1, ends = 2 }'),
        ("losses.0.temperature.ends", "did you mean 'end'?"),
    ),
    "a word for a number": (table("soft", 'temperature = "warm"'), ("losses.0.temperature", "number", "'warm'")),
    "a temperature that is no number": (table("soft", "temperature = nan"), ("losses.0.temperature", "finite")),
    "a mixing of one": (table("jensen-shannon", "mixing = 1.0"), ("losses.0.mixing", "less than 1")),
    "a layer without the other": (table("rkd-angle", 'student_layer = "a"'), ("losses.0", "both")),
    "no layers": ('[[losses]]\nkind = "hint"', ("losses.0.student_layer", "missing")),
    "another balance": (BOTH + '[balance]\nkind = "equal"', ("balance.kind", "'two-stage'", "'equal'")),
    "a misspelt setting of a balance": (
        BOTH + '[balance]\nkind = "two-stage"\nswich = 0.5',
        ("balance.swich", "did you mean 'switch'?"),
    ),
    "learned weights from zero on": (
        table("hard", "weight = 0.0") + table("soft") + '[balance]\nkind = "uncertainty"',
        ("uncertainty", "positive"),
    ),
    "annealed weights that are learned": (
        table("hard")
        + table("soft", 'weight = { kind = "linear", start = 1, end = 0 }')
        + '[balance]\nkind = "uncertainty"',
        ("uncertainty", "adapts"),
    ),
    "two stages of one": (table("hard") + '[balance]\nkind = "two-stage"', ("two stages",)),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_makes_no_sense_is_refused_where_it_stands(what: str) -> None:
    text, said = WRONG[what]
    message = refused(text)
    assert all(words in message for words in said), message


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(6, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, inputs: torch.Tensor) -> Any:
        return self.head(self.encoder(inputs))


@pytest.mark.parametrize(("student", "teacher"), [("encodr", "encoder"), ("encoder", "encodr")])
def test_a_layer_that_is_not_there_is_refused_with_the_nearest(student: str, teacher: str) -> None:
    text = f'[[losses]]\nkind = "hint"\nstudent_layer = "{student}"\nteacher_layer = "{teacher}"'
    with pytest.raises(UsageError, match=r"'encodr' is not in Named; did you mean 'encoder'\?"):
        Distiller(Named(), Named(), build_objective(read(text)))


def test_the_tables_are_read_without_torch() -> None:
    code = "import sys; import edgekd.distill.config; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
