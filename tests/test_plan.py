"""Laying out a build: order, contracts, what each key depends on, what is refused before anything runs."""

import ast
import dataclasses
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest

from edgekd import keys
from edgekd.artifact import State
from edgekd.errors import DependencyError, UsageError
from edgekd.keys import Fingerprints
from edgekd.plan import Plan, check_contracts, keys_of, make_plan
from edgekd.recipe import load_recipe, resolve_paths
from edgekd.resources import BUILT_IN_RECIPES, DEVICES, TARGETS
from edgekd.step import Step

ROOT = Path(__file__).resolve().parents[1]
TARGET = "tflite-arm"
TRAINING = {"data", "teacher", "outputs", "student", "program"}
EXPORTS = {"export[tflite int8]", "export[tflite float32]", "export[tflite float32 teacher]"}
OBJECTIVE = "preflight[objective]"
PREFLIGHT = {"preflight[tflite-arm]"}
VERIFY = {"verify[tflite-arm]"}
MEASURE = "measure the exported model"
STUDENT_MEASURED = "measure[tflite float32 in ai-edge-litert on local]"
COMPARISONS = {STUDENT_MEASURED, "measure[tflite float32 teacher in ai-edge-litert on local]"}
EVERYTHING = {OBJECTIVE} | PREFLIGHT | TRAINING | EXPORTS | VERIFY | {MEASURE} | COMPARISONS
OF_THE_TEACHER = EVERYTHING - PREFLIGHT - {"data"}
OF_THE_STUDENT = {
    OBJECTIVE,
    "student",
    "program",
    "export[tflite int8]",
    "export[tflite float32]",
    STUDENT_MEASURED,
    *VERIFY,
    MEASURE,
}
Versions = Callable[[Mapping[str, str | None]], None]
Planned = Callable[..., Plan]


@pytest.fixture
def fresh_caches() -> Iterator[None]:
    """Sources and versions are read anew, and what a test pretended is forgotten."""

    def clear() -> None:
        for cached in (keys.source_digest, keys._source, keys.package_version):
            cached.cache_clear()
        importlib.invalidate_caches()

    clear()
    yield
    clear()


@pytest.fixture
def versions(fresh_caches: None, monkeypatch: pytest.MonkeyPatch) -> Versions:
    """Pretend that distributions are installed in another version, or not (None)."""
    installed = keys.metadata.version

    def pretend(changes: Mapping[str, str | None]) -> None:
        def version(name: str) -> str:
            if name not in changes:
                return installed(name)
            if (found := changes[name]) is None:
                raise keys.metadata.PackageNotFoundError(name)
            return found

        monkeypatch.setattr(keys.metadata, "version", version)
        keys.package_version.cache_clear()

    return pretend


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planned:
    """Plan the digits recipe, or another, for targets with overrides."""
    monkeypatch.chdir(tmp_path)

    def planned(*overrides: str, targets: tuple[str, ...] = (TARGET,), recipe: str = "digits") -> Plan:
        source = load_recipe(recipe, overrides)
        return make_plan(resolve_paths(source), targets, Fingerprints(tmp_path / "fingerprints.json"))

    return planned


def changed(before: Plan, after: Plan) -> set[str]:
    assert set(before.keys) == set(after.keys)
    return {label(name) for name in before.keys if before.keys[name] != after.keys[name]}


def label(name: str) -> str:
    """The name of a step, but for the one that measures the exported model: how that is called is left open."""
    return MEASURE if name.startswith("measure[") and name not in COMPARISONS else name


def names(plan: Plan) -> list[str]:
    return [label(step.name) for step in plan.steps]


def test_a_plan_has_all_steps_of_a_build(plan: Planned):
    assert set(names(plan())) == EVERYTHING


def test_a_runtime_without_weights_of_4_bits_has_an_export_of_its_own(plan: Planned):
    targets = (TARGET, "tflite-armv7")
    exports = [name for name in plan("quantize.weight_bits=4", targets=targets).by_name if name.startswith("export[")]
    assert {"export[tflite int8, int4]", "export[tflite int8]"} < set(exports)
    shared = {name for name in plan(targets=targets).by_name if name.startswith("export[")}
    assert shared == set(exports) - {"export[tflite int8, int4]"}


def test_every_input_is_made_before_it_is_needed(plan: Planned):
    made: set[str] = set()
    for step in plan().steps:
        assert set(step.inputs.values()) <= made
        assert set(step.requires) <= set(step.inputs)
        made.add(step.name)


def test_the_steps_go_from_data_to_measurements(plan: Planned):
    order = names(plan())
    chain = [
        OBJECTIVE,
        *PREFLIGHT,
        "data",
        "teacher",
        "outputs",
        "student",
        "program",
        "export[tflite int8]",
        *VERIFY,
        MEASURE,
    ]
    assert [name for name in order if name in chain] == chain


DKD = 'distill.losses=[{kind="hard"}, {kind="dkd"}]'
HINT = 'distill.losses=[{kind="hint", student_layer="blocks", teacher_layer="blocks"}]'


@pytest.fixture
def own_losses(tmp_path: Path) -> str:
    """The digits recipe without its short form, for losses of its own."""
    text = (BUILT_IN_RECIPES / "digits.toml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith(("temperature", "weight = "))]
    (tmp_path / "mine.toml").write_text("\n".join(lines))
    return "mine.toml"


@pytest.mark.parametrize(
    ("settings", "sources"),
    [
        ((DKD,), {"data", "outputs"}),
        ((DKD, "distill.online=true"), {"data", "teacher"}),
        ((HINT,), {"data", "teacher"}),
    ],
)
def test_the_teacher_runs_along_where_it_must(
    settings: tuple[str, ...], sources: set[str], plan: Planned, own_losses: str
):
    steps = plan(*settings, recipe=own_losses).by_name
    assert set(steps["student"].inputs) == sources
    assert set(steps["program"].inputs) == {"data", "outputs", "student"}


def test_a_baseline_differs_from_the_student_in_what_it_minimises_alone(plan: Planned):
    steps = plan("distill.baseline=true").by_name
    student, alone = steps["student"], steps["student alone"]
    assert set(alone.inputs) == {"data"}
    assert [loss.kind for loss in alone.config.objective.losses] == ["hard"]
    assert dataclasses.replace(alone.config, objective=student.config.objective) == student.config
    assert (alone.function, alone.seed) == (student.function, student.seed)


def test_a_baseline_leaves_all_other_keys_as_they_are(plan: Planned):
    without, with_it = plan().keys, plan("distill.baseline=true").keys
    assert {name: key for name, key in with_it.items() if name != "student alone"} == without


def test_losses_stay_on_in_quantization_but_for_those_over_layers(plan: Planned, own_losses: str):
    hint = HINT.replace("]", ', {kind="dkd", weight={kind="linear", start=1.0, end=0.25}}]')
    objective = plan(hint, recipe=own_losses).by_name["program"].config.objective
    assert [(loss.kind, loss.weight) for loss in objective.losses] == [("dkd", 0.25)]


def test_every_step_has_a_key_of_its_own(plan: Planned):
    made = plan().keys
    assert {label(name) for name in made} == EVERYTHING
    assert len(set(made.values())) == len(EVERYTHING)
    assert all(len(key) == 64 and set(key) <= set("0123456789abcdef") for key in made.values())


def test_equal_plans_have_equal_keys(plan: Planned):
    assert plan().keys == plan().keys


def test_the_function_of_every_step_is_there(plan: Planned):
    for step in plan().steps:
        module, _, function = step.function.partition(":")
        spec = find_spec(module)
        assert spec, step.function
        assert spec.origin
        defined = [node.name for node in ast.parse(Path(spec.origin).read_text()).body if hasattr(node, "name")]
        assert function in defined, step.function


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=1", EVERYTHING),
        ("task.std=32.0", EVERYTHING),
        ("task.augment.views=2", EVERYTHING),
        ("task.args.test_every=4", EVERYTHING),
        ("teacher.train.epochs=13", OF_THE_TEACHER),
        ("teacher.args.width=16", OF_THE_TEACHER),
        ("student.args.width=16", OF_THE_STUDENT | PREFLIGHT),
        ("distill.temperature=2.0", OF_THE_STUDENT),
        ("distill.weight=0.5", OF_THE_STUDENT),
        ("distill.train.epochs=31", OF_THE_STUDENT - {OBJECTIVE}),
        ("quantize.train.epochs=5", {"program", "export[tflite int8]", *VERIFY, MEASURE}),
        ("quantize.calibration_samples=128", {*PREFLIGHT, "program", "export[tflite int8]", *VERIFY, MEASURE}),
        ("budgets.bytes=100000", {*VERIFY, MEASURE}),
        ("budgets.below_student=1.0", {*VERIFY, MEASURE}),
        ("measure.protocol=full", {MEASURE}),
        ("name=other", EXPORTS | VERIFY | {MEASURE} | COMPARISONS),
        ("distill.temperature=4", set()),
    ],
)
def test_an_override_changes_the_keys_of_what_depends_on_it(override: str, expected: set[str], plan: Planned):
    assert changed(plan(), plan(override)) == expected


@pytest.mark.parametrize(
    ("package", "touched", "untouched"),
    [
        ("torch", {"teacher", "student", "program"}, {"data"}),
        ("scikit-learn", {"data"}, set()),
        ("nncf", {"program"}, {"data", "teacher", "student"}),
        ("litert-torch", {"export[tflite int8]"}, TRAINING),
        ("ai-edge-litert", {*VERIFY, MEASURE}, TRAINING),
    ],
)
def test_another_version_of_a_package_changes_the_keys_of_its_users(
    package: str, touched: set[str], untouched: set[str], plan: Planned, versions: Versions
):
    before = plan()
    versions({package: "999.0"})
    after = changed(before, plan())
    assert touched <= after
    assert not untouched & after


def test_names_of_steps_are_not_part_of_keys(plan: Planned, tmp_path: Path):
    before = plan()
    renamed = [
        dataclasses.replace(
            step, name=f"new {step.name}", inputs={role: f"new {name}" for role, name in step.inputs.items()}
        )
        for step in before.steps
    ]
    after = keys_of(renamed, Fingerprints(tmp_path / "fingerprints.json"))
    assert after == {f"new {name}": key for name, key in before.keys.items()}


def test_the_roles_of_inputs_are_part_of_keys(tmp_path: Path):
    made = [Step("a", "edgekd.errors:x", 1, State("t")), Step("b", "edgekd.errors:x", 2, State("t"))]
    pair = Step("c", "edgekd.errors:x", None, State("t"), inputs={"first": "a", "second": "b"})
    swapped = dataclasses.replace(pair, inputs={"first": "b", "second": "a"})
    fingerprints = Fingerprints(tmp_path / "fingerprints.json")
    assert keys_of([*made, pair], fingerprints)["c"] != keys_of([*made, swapped], fingerprints)["c"]


def test_data_counts_by_content(plan: Planned, tmp_path: Path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0_a_0.wav").write_bytes(b"sound")
    audio = {"recipe": "spoken-digits"}
    first, second = plan("task.data=one", **audio), plan("task.data=two", **audio)
    assert first.keys == second.keys
    (tmp_path / "two/0_a_1.wav").write_bytes(b"more")
    assert changed(first, plan("task.data=two", **audio)) == EVERYTHING


def test_missing_data_is_named(plan: Planned, tmp_path: Path):
    with pytest.raises(UsageError, match="no such file or folder") as error:
        plan("task.data=nowhere", recipe="spoken-digits")
    assert str(tmp_path / "nowhere") in str(error.value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("task.source=mine:f", EVERYTHING),
        ("teacher.model=mine:f", OF_THE_TEACHER),
        ("student.model=mine:f", OF_THE_STUDENT | PREFLIGHT),
    ],
)
def test_the_source_of_a_user_module_counts(
    override: str,
    expected: set[str],
    plan: Planned,
    fresh_caches: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mine.py").write_text("f = 1")
    before = plan(override)
    (tmp_path / "mine.py").write_text("f = 2")
    keys.source_digest.cache_clear()
    keys._source.cache_clear()
    assert changed(before, plan(override)) == expected


def test_a_missing_user_module_is_refused(plan: Planned):
    with pytest.raises(UsageError, match=r"'nowhere\.mod'"):
        plan("task.source=nowhere.mod:f")


KEYS = """
import json, sys
from pathlib import Path
from edgekd.keys import Fingerprints
from edgekd.plan import make_plan
from edgekd.recipe import load_recipe
print(json.dumps(make_plan(load_recipe("digits").recipe, ["tflite-arm"], Fingerprints(Path("none"))).keys))
"""


def python(code: str, *arguments: str, path: Path = ROOT) -> str:
    """What a fresh interpreter with `path` on its module path prints for `code`."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(path)},
        cwd=path,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package whose source a test may edit."""
    copy = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "edgekd", copy / "edgekd", ignore=shutil.ignore_patterns("__pycache__"))
    for data in (TARGETS, DEVICES):
        if not (copy / "edgekd" / data.name).is_dir():
            shutil.copytree(data, copy / data.name)
    return copy


@pytest.fixture(scope="module")
def keys_as_they_are(checkout: Path) -> dict[str, str]:
    return json.loads(python(KEYS, path=checkout))


@pytest.mark.parametrize(
    ("file", "touched", "untouched"),
    [
        ("tasks/image.py", {"data"}, set()),
        ("models/resnet.py", {"teacher"}, {"data"}),
        ("models/ds_cnn.py", {"student", "program"}, {"data"}),
        ("distill/losses/logits.py", {"student"}, {"data"}),
        ("compress/qat.py", {"program"}, {"data", "teacher", "student"}),
        ("export/tflite.py", EXPORTS, TRAINING),
        ("verify/readback.py", VERIFY, TRAINING | EXPORTS),
        ("bench/measurement.py", {MEASURE, *COMPARISONS}, TRAINING | EXPORTS),
        ("report/html.py", set(), EVERYTHING),
        ("cli.py", set(), EVERYTHING),
    ],
)
def test_the_source_of_edgekd_itself_counts_where_it_runs(
    file: str, touched: set[str], untouched: set[str], checkout: Path, keys_as_they_are: dict[str, str]
):
    source = checkout / "edgekd" / file
    text = source.read_text()
    try:
        source.write_text(text + "\nEDITED = 1\n")
        after = json.loads(python(KEYS, path=checkout))
    finally:
        source.write_text(text)
    moved = {label(name) for name in after if after[name] != keys_as_they_are[name]}
    assert touched <= moved
    assert not untouched & moved


def make(name: str, ensures: State, inputs: dict[str, str], requires: dict[str, State]) -> Step:
    return Step(name, "edgekd.errors:x", None, ensures, inputs=inputs, requires=requires)


DENSE, PROGRAM = State("torch", "float32", "dense"), State("torch", "qat", "dense")
STUDENT = make("student", DENSE, {}, {})


@pytest.mark.parametrize(
    "required",
    [State(None), State("torch"), State("torch", "float32"), State(None, None, "dense"), DENSE],
)
def test_a_state_that_fits_is_accepted(required: State):
    check_contracts([STUDENT, make("use", PROGRAM, {"model": "student"}, {"model": required})])


@pytest.mark.parametrize(
    "required",
    [State("tflite"), State("torch", "qat"), State("torch", "float32", "pruned"), State(None, "int8")],
)
def test_a_state_that_does_not_fit_is_refused(required: State):
    use = make("use", PROGRAM, {"model": "student"}, {"model": required})
    with pytest.raises(UsageError) as error:
        check_contracts([STUDENT, use])
    message = str(error.value)
    assert all(word in message for word in ("'use'", "model", "'student'", str(required), str(DENSE)))


def test_an_input_from_a_later_step_is_refused():
    use = make("use", PROGRAM, {"model": "student"}, {})
    check_contracts([STUDENT, use])
    with pytest.raises(UsageError, match="'use' needs 'student'"):
        check_contracts([use, STUDENT])


def test_an_input_that_nothing_makes_is_refused():
    with pytest.raises(UsageError, match="'use' needs 'nothing'"):
        check_contracts([STUDENT, make("use", PROGRAM, {"model": "nothing"}, {})])


def test_a_step_cannot_need_itself():
    with pytest.raises(UsageError, match="'use' needs 'use'"):
        check_contracts([make("use", PROGRAM, {"model": "use"}, {})])


@pytest.fixture
def two_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Two boards that take the same file: one as it is, one that is held to a tighter limit."""
    folder = tmp_path / "targets"
    folder.mkdir()
    text = (TARGETS / f"{TARGET}.toml").read_text()
    assert "max_lsb = 8" in text
    (folder / "board-a.toml").write_text(text)
    (folder / "board-b.toml").write_text(text.replace("max_lsb = 8", "max_lsb = 4"))
    monkeypatch.setattr("edgekd.target.TARGETS", folder)
    return "board-a", "board-b"


def test_two_targets_share_training_and_exports(two_targets: tuple[str, str], plan: Planned):
    both = plan(targets=two_targets)
    assert len(both.by_name) == len(both.steps)
    assert TRAINING | EXPORTS | {"verify[board-a]", "verify[board-b]"} <= set(names(both))
    assert both.keys["verify[board-a]"] != both.keys["verify[board-b]"]


def test_two_targets_have_the_keys_that_each_has_alone(two_targets: tuple[str, str], plan: Planned):
    both = plan(targets=two_targets)
    for target in two_targets:
        alone = plan(targets=(target,))
        assert both.keys[f"verify[{target}]"] == alone.keys[f"verify[{target}]"]
        assert all(both.keys[name] == alone.keys[name] for name in TRAINING | EXPORTS)


def test_each_of_two_targets_is_measured_after_its_own_checks(two_targets: tuple[str, str], plan: Planned):
    both = plan(targets=two_targets)
    for target in both.targets:
        assert target.checks == f"verify[{target.name}]"
        assert target.measurements
        for name in target.measurements:
            assert both.by_name[name].inputs["checks"] == target.checks


def test_a_target_given_twice_is_planned_once(plan: Planned):
    assert plan(targets=(TARGET, TARGET)) == plan()


def test_another_device_replaces_that_of_the_target(plan: Planned, tmp_path: Path):
    recipe = load_recipe("digits").recipe
    fingerprints = Fingerprints(tmp_path / "fingerprints.json")
    assert names(make_plan(recipe, [TARGET], fingerprints, ["local"])) == names(plan())


def test_an_unknown_target_suggests_the_nearest(plan: Planned):
    with pytest.raises(UsageError) as error:
        plan(targets=("tflite-amr",))
    assert "'tflite-amr'" in str(error.value)
    assert "did you mean 'tflite-arm'?" in str(error.value)


@pytest.mark.parametrize("name", ["../devices/local", "targets/tflite-arm", "", "."])
def test_the_name_of_a_target_is_not_a_path(name: str, plan: Planned):
    with pytest.raises(UsageError, match="is not known"):
        plan(targets=(name,))


def test_an_unknown_device_suggests_the_nearest(tmp_path: Path):
    recipe = load_recipe("digits").recipe
    with pytest.raises(UsageError) as error:
        make_plan(recipe, [TARGET], Fingerprints(tmp_path / "fingerprints.json"), ["lokal"])
    assert "'lokal'" in str(error.value)
    assert "did you mean 'local'?" in str(error.value)


@pytest.mark.parametrize("absent", [["nncf"], ["torch", "litert-torch"], ["scikit-learn"], ["ai-edge-litert"]])
def test_a_missing_package_is_named_with_the_command_that_mends_it(
    absent: list[str], plan: Planned, versions: Versions
):
    versions(dict.fromkeys(absent))
    with pytest.raises(DependencyError) as error:
        plan()
    message = str(error.value)
    assert error.value.exit_code == 3
    assert all(name in message for name in absent)
    assert "pip install 'edgekd[tflite]'" in message
    assert "\n" not in message


def test_packages_that_are_there_are_not_complained_about(plan: Planned, versions: Versions):
    versions({"nncf": None})
    with pytest.raises(DependencyError) as error:
        plan()
    assert "torch" not in str(error.value).partition(";")[0]
