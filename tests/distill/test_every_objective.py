"""Every loss and balance from a recipe, on digits: what is minimised falls on samples that nobody trained on."""

import csv
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from edgekd.artifact import Artifact
from edgekd.distill.config import REFUSED
from edgekd.keys import Fingerprints
from edgekd.plan import Plan, make_plan
from edgekd.recipe import load_recipe, resolve_paths
from edgekd.resources import BUILT_IN_RECIPES
from edgekd.step import Work
from tests.distill.teachers.small import made
from tests.distill.test_objectives import KINDS, OVER_LAYERS

SHORT = (
    "task.augment.views=1",
    "task.validation=0.2",
    "teacher.train.epochs=3",
    "teacher.args.width=16",
    "student.args.width=16",
    "student.args.blocks=2",
    "distill.train.epochs=5",
)
HARD = '[[distill.losses]]\nkind = "hard"\n'
BALANCES = {
    "uncertainty": '[distill.balance]\nkind = "uncertainty"\n',
    "dynamic-average": '[distill.balance]\nkind = "dynamic-average"\n',
}
ANNEALED = """[[distill.losses]]
kind = "soft"
weight = { kind = "cosine", start = 1.0, end = 0.5 }
temperature = { kind = "linear", start = 8.0, end = 4.0 }
"""
Made = Callable[[str], Mapping[str, list[float]]]


def table(kind: str) -> str:
    layers = 'student_layer = "stem"\nteacher_layer = "stem"\n' if kind in OVER_LAYERS else ""
    return f'[[distill.losses]]\nkind = "{kind}"\n{layers}'


def planned(folder: Path, losses: str) -> Plan:
    text = (BUILT_IN_RECIPES / "digits.toml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith(("temperature", "weight = "))]
    file = folder / "mine.toml"
    file.write_text("\n".join(lines).replace("[distill.train]", f"{losses}\n[distill.train]"))
    recipe = resolve_paths(load_recipe(str(file), SHORT))
    return make_plan(recipe, ["tflite-arm"], Fingerprints(folder / "fingerprints.json"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """What the student's training wrote down, a column a name, for an objective. All have one teacher."""
    home = tmp_path_factory.mktemp("objectives")
    known: dict[str, Artifact] = {}

    def run(plan: Plan, name: str) -> Artifact:
        step, key = plan.by_name[name], plan.keys[name]
        if key not in known:
            inputs = {role: run(plan, source) for role, source in step.inputs.items()}
            out, scratch = home / key, home / f"{key}-scratch"
            out.mkdir()
            scratch.mkdir()
            known[key] = made(out, step.load()(Work(step.config, inputs, out, step.seed, scratch=scratch)))
        return known[key]

    def train(losses: str) -> Mapping[str, list[float]]:
        with run(planned(home, losses), "student").file("training.csv").open() as file:
            rows = list(csv.DictReader(file))
        return {name: [float(row[name]) for row in rows if row[name]] for name in rows[0]}

    return train


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in (*REFUSED["classification"], "adversarial")])
def test_what_is_minimised_falls(kind: str, trained: Made) -> None:
    loss = trained(table(kind))["validation_loss"]
    assert len(loss) == 5
    assert loss[-1] < loss[0]


@pytest.mark.parametrize("kind", ["adversarial"])
def test_a_student_in_a_game_learns_beside_its_rival(kind: str, trained: Made) -> None:
    columns = trained(HARD + table(kind))
    assert columns["hard"][-1] < 0.8 * columns["hard"][0]
    assert columns[f"{kind}.rival"][-1] > 0


@pytest.mark.parametrize("balance", BALANCES)
def test_balances_that_learn(balance: str, trained: Made) -> None:
    columns = trained(HARD + table("dkd") + BALANCES[balance])
    assert all(columns[name][-1] < 0.8 * columns[name][0] for name in ("hard", "dkd"))


def test_an_annealed_loss(trained: Made) -> None:
    loss = trained(HARD + ANNEALED)["validation_loss"]
    assert loss[-1] < 0.9 * loss[0]


def test_two_stages_look_at_the_teacher_first_and_then_at_the_labels(trained: Made) -> None:
    columns = trained(HARD + table("logits-mse") + '[distill.balance]\nkind = "two-stage"\nswitch = 0.6\n')
    minimised = columns["loss"]
    assert minimised[0] == pytest.approx(columns["logits-mse"][0])
    assert minimised[-1] == pytest.approx(columns["hard"][-1])
