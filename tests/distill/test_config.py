"""The short form of an objective, and what of one stays on in fine-tuning."""

from typing import Any

import pytest
from pydantic import ValidationError

from edgekd.config import read_config
from edgekd.distill.config import (
    ObjectiveConfig,
    Outputs,
    TwoStage,
    Uncertainty,
    for_fine_tuning,
    labels_alone,
    over_layers,
    short_form,
)
from edgekd.distill.objectives import build_objective
from edgekd.errors import UsageError

ANNEALED = '{ kind = "linear", start = 8.0, end = 2.0 }'
LAYERS = 'student_layer = "a"\nteacher_layer = "b"'


def read(*tables: str) -> ObjectiveConfig:
    return read_config(ObjectiveConfig, "\n".join(f"[[losses]]\n{table}" for table in tables), "my.toml")


def settings(objective: ObjectiveConfig) -> list[dict[str, Any]]:
    return [dict(vars(loss)) for loss in objective.losses]


@pytest.mark.parametrize(
    ("outputs", "temperature", "expected"),
    [
        ("classification", None, {"kind": "soft", "weight": 0.9, "temperature": 4.0}),
        ("classification", 7.0, {"kind": "soft", "weight": 0.9, "temperature": 7.0}),
        ("multi-label", None, {"kind": "binary-soft", "weight": 0.9, "temperature": 1.0}),
        ("multi-label", 2.0, {"kind": "binary-soft", "weight": 0.9, "temperature": 2.0}),
        ("regression", None, {"kind": "output-mse", "weight": 0.9}),
    ],
)
def test_the_short_form_is_the_labels_and_what_softens_such_outputs(
    outputs: Outputs, temperature: float | None, expected: dict[str, Any]
) -> None:
    hard, soft = settings(short_form(temperature, None, outputs))
    assert hard == {"kind": "hard", "weight": pytest.approx(0.1)}
    assert soft == expected


def test_the_short_form_shares_one_weight() -> None:
    assert [loss["weight"] for loss in settings(short_form(None, 0.25, "classification"))] == [0.75, 0.25]


def test_a_regression_has_no_temperature() -> None:
    with pytest.raises(UsageError, match=r"distill\.temperature"):
        short_form(4.0, None, "regression")


@pytest.mark.parametrize("outputs", ["classification", "multi-label", "regression"])
def test_labels_alone_need_no_teacher(outputs: Outputs) -> None:
    assert not build_objective(labels_alone(), outputs).needs_teacher


def test_what_is_annealed_stays_at_its_end() -> None:
    weight = ANNEALED.replace("8.0", "1.0").replace("2.0", "0.5")
    kept = for_fine_tuning(
        read(f'kind = "soft"\ntemperature = {ANNEALED}\nweight = {weight}', 'kind = "hard"'), "classification"
    )
    assert settings(kept) == [
        {"kind": "soft", "temperature": 2.0, "weight": 0.5},
        {"kind": "hard", "weight": 1.0},
    ]


@pytest.mark.parametrize("balance", [Uncertainty(kind="uncertainty"), TwoStage(kind="two-stage")])
def test_fine_tuning_keeps_the_weights_as_written(balance: Any) -> None:
    given = read('kind = "hard"', 'kind = "dkd"\nweight = 3.0')
    kept = for_fine_tuning(ObjectiveConfig(losses=given.losses, balance=balance), "classification")
    assert kept == given


@pytest.mark.parametrize(
    "gone",
    [f'kind = "hint"\n{LAYERS}', f'kind = "rkd-angle"\n{LAYERS}', 'kind = "adversarial"'],
    ids=["hint", "relations of layers", "adversarial"],
)
def test_what_would_have_to_learn_anew_is_left_out(gone: str) -> None:
    assert for_fine_tuning(read(gone, 'kind = "dist"'), "classification") == read('kind = "dist"')
    assert for_fine_tuning(read(gone), "classification") == short_form(None, None, "classification")


def test_relations_of_outputs_stay() -> None:
    assert for_fine_tuning(read('kind = "rkd-angle"'), "regression") == read('kind = "rkd-angle"')


def test_a_weight_that_is_annealed_away_leaves_the_short_form() -> None:
    gone = read('kind = "dkd"\nweight = { kind = "cosine", start = 1.0, end = 0.0 }')
    assert for_fine_tuning(gone, "classification") == short_form(None, None, "classification")


def test_over_layers() -> None:
    assert [over_layers(loss) for loss in read('kind = "rkd-angle"', f'kind = "rkd-angle"\n{LAYERS}').losses] == [
        False,
        True,
    ]


def test_weights_that_sum_to_nothing_are_refused() -> None:
    with pytest.raises(ValidationError, match="sum to nothing"):
        ObjectiveConfig(losses=(short_form(None, 1.0, "classification").losses[0],))
