"""What an objective is told before any training."""

from pathlib import Path

import pytest

from edgekd.config import read_config
from edgekd.distill.check import check_objective
from edgekd.distill.config import REFUSED, ObjectiveConfig
from edgekd.errors import UsageError
from edgekd.recipe import load_recipe
from edgekd.step import Work
from edgekd.step_configs import ObjectiveCheckConfig
from tests.distill.test_objectives import KINDS, OVER_LAYERS


def check(losses: str, tmp_path: Path, *overrides: str) -> list[str]:
    recipe = load_recipe("digits", overrides).recipe
    objective = read_config(ObjectiveConfig, losses, "my.toml")
    config = ObjectiveCheckConfig(recipe.task, recipe.teacher, recipe.student, objective)
    found = check_objective(Work(config, {}, tmp_path, 0))["losses"]
    assert isinstance(found, list)
    return found


def table(kind: str, student: str = "stem", teacher: str = "stem") -> str:
    layers = f'student_layer = "{student}"\nteacher_layer = "{teacher}"' if kind in OVER_LAYERS else ""
    return f'[[losses]]\nkind = "{kind}"\n{layers}\n'


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in REFUSED["classification"]])
def test_every_loss_fits_the_built_in_recipe(kind: str, tmp_path: Path) -> None:
    found = check(table(kind), tmp_path)
    assert found == ([kind, f"{kind}.rival"] if kind == "adversarial" else [kind])


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        (table("hint", student="stm"), ("layer 'stm'", "did you mean 'stem'?")),
        (table("hint", teacher="blokcs"), ("layer 'blokcs'", "did you mean 'blocks'?")),
        (table("hint", teacher="classifier"), ("'stem'", "'classifier'", "as many axes")),
        (table("output-mse"), ("'output-mse'", "'logits-mse'")),
        (table("soft") + '[balance]\nkind = "two-stage"\n', ("stage",)),
    ],
    ids=["student layer", "teacher layer", "shapes", "outputs", "one stage"],
)
def test_what_does_not_fit_is_told(losses: str, words: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        check(losses, tmp_path)
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_the_models_are_left_untrained_and_nothing_is_written(tmp_path: Path) -> None:
    check(table("soft"), tmp_path)
    assert not list(tmp_path.iterdir())
