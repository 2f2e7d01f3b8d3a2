"""What `plan` finds out about a student before anything is trained."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekd.errors import ExportError, GateError, UsageError
from edgekd.keys import Fingerprints
from edgekd.plan import make_plan
from edgekd.recipe import load_recipe, resolve_paths
from edgekd.step import Work
from edgekd.verify.preflight import preflight
from tests.conftest import Run, edgekd, overrides
from tests.verify.test_published import RUNTIMES, SHORT, TARGET

pytestmark = pytest.mark.slow

OBJECTIVE = "preflight[objective]"
STUDENTS = """
import torch
from torch import nn


class Bessel(nn.Module):
    def forward(self, features):
        return torch.special.bessel_j0(features)


class Choosing(nn.Module):
    def forward(self, features):
        if features.sum() > 0:
            return 2 * features
        return features


class Sine(nn.Module):
    def forward(self, features):
        return torch.sin(features)


class Reshaped(nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.shape = shape

    def forward(self, features):
        return features.reshape(self.shape)


class Placed(nn.Module):
    def __init__(self):
        super().__init__()
        self.place = nn.Parameter(torch.zeros(1, 16, 1, 1))

    def forward(self, features):
        return features + self.place


class Folding(nn.Module):
    def forward(self, features):
        return features.mean(0, keepdim=True)


class Student(nn.Module):
    def __init__(self, input_shape, classes, middle):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(input_shape[0], 16, 3, padding=1), nn.ReLU())
        self.middle = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), middle)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.last = nn.Linear(16, classes)

    def forward(self, inputs):
        return self.last(torch.flatten(self.pool(self.middle(self.first(inputs))), 1))


def good(input_shape, classes): return Student(input_shape, classes, nn.ReLU())
def odd(input_shape, classes): return Student(input_shape, classes, Bessel())
def placed(input_shape, classes): return Student(input_shape, classes, Placed())
def choosing(input_shape, classes): return Student(input_shape, classes, Choosing())
def sine(input_shape, classes): return Student(input_shape, classes, Sine())
def too_small(input_shape, classes): return Student(input_shape, classes, Reshaped(-1, 16, 5, 5))
def single(input_shape, classes): return Student(input_shape, classes, Reshaped(1, 16, 8, 8))
def folding(input_shape, classes): return nn.Sequential(Student(input_shape, classes, nn.ReLU()), Folding())
def twelve(input_shape, classes): return Student(input_shape, classes + 2, nn.ReLU())
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with students and a target of each format in it."""
    return furnished(tmp_path)


def furnished(folder: Path) -> Path:
    (folder / "students.py").write_text(STUDENTS)
    for name, runtime in RUNTIMES.items():
        (folder / f"{name}.toml").write_text(TARGET.format(name=name, runtime=runtime))
    return folder


def settings(student: str) -> tuple[str, ...]:
    return (*SHORT, f"student.model=students:{student}", "student.args={}")


def arguments(student: str, *formats: str) -> list[str]:
    targets = [part for name in formats for part in ("--target", f"{name}.toml")]
    return ["--recipe", "digits", "--json", *targets, *overrides(settings(student))]


def plan(folder: Path, student: str, *formats: str) -> Run:
    return edgekd(folder, "plan", *arguments(student, *formats))


def kept(folder: Path) -> set[str]:
    """The steps that the store has a result of."""
    return {json.loads(file.read_text())["step"] for file in folder.glob(".edgekd/artifacts/*/*/artifact.json")}


def test_an_operation_that_no_exporter_has_is_named_with_its_layer(here: Path) -> None:
    run = plan(here, "odd", "tflite", "onnx", "coreml")
    assert run.code == 4
    assert [entry["target"] for entry in run.document["preflight"]] == ["tflite", "onnx", "coreml"]
    for entry in run.document["preflight"]:
        assert entry["exports"] is False
        assert "bessel_j0 in layer 'middle.1' (Bessel)" in entry["why_not"]
        assert "bytes" not in entry
    assert [step["name"] for step in run.document["steps"] if step["cached"]] == [OBJECTIVE]
    assert kept(here) == {OBJECTIVE}


def test_a_parameter_that_starts_at_zero_is_tried_as_if_it_had_left_it(here: Path) -> None:
    run = plan(here, "placed", "tflite")
    assert run.code == 0, run.stderr
    assert run.document["preflight"][0]["ops"]["undelegated"] == []


def test_a_choice_by_the_data_is_named_with_its_line(here: Path) -> None:
    run = plan(here, "choosing", "onnx")
    assert run.code == 4
    (entry,) = run.document["preflight"]
    line = STUDENTS.splitlines().index("        if features.sum() > 0:") + 1
    assert entry["exports"] is False
    assert f"at students.py, line {line}: if features.sum() > 0:" in entry["why_not"]


def test_a_shape_that_does_not_fit_is_refused_in_one_line(here: Path) -> None:
    run = plan(here, "too_small", "onnx")
    assert run.code == 2
    assert run.stderr.splitlines() == [f"edgekd: {run.document['error']['message']}"]
    words = (
        "student: students:too_small does not take an input of shape (1, 1, 8, 8): shape '[-1, 16, 5, 5]' is invalid"
    )
    assert words in run.stderr
    assert kept(here) == set()


def test_a_build_with_such_a_student_ends_before_anything_is_trained(here: Path) -> None:
    run = edgekd(here, "build", *arguments("odd", "onnx"))
    assert run.code == 4
    assert "bessel_j0 in layer 'middle.1' (Bessel)" in run.stderr.splitlines()[-1]
    assert run.document["error"]["code"] == 4
    assert kept(here) == {OBJECTIVE}
    assert not list(here.glob("build/*/onnx"))


def test_more_calibration_samples_than_there_are_is_refused_before_anything_is_trained(here: Path) -> None:
    asked = ("--set", "quantize.calibration_samples=1500")
    run = edgekd(here, "build", *arguments("good", "onnx"), *asked)
    assert run.code == 2
    words = "quantize.calibration_samples: 1500 are asked for, the training split has 1437; ask for fewer"
    assert run.stderr.splitlines()[-1] == f"edgekd: {words}"
    assert kept(here) == {OBJECTIVE}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A good student planned twice, then built: what was printed, and what was in the store after each."""
    folder = furnished(tmp_path_factory.mktemp("good"))
    found: dict[str, Any] = {}
    for name, verb in (("first", "plan"), ("second", "plan"), ("build", "build")):
        run = edgekd(folder, verb, *arguments("good", "onnx", "tflite"))
        assert run.code == 0, run.stderr
        files = folder.glob(".edgekd/artifacts/*/*/artifact.json")
        found[name] = {"run": run, "steps": kept(folder), "written": {file: file.stat().st_mtime_ns for file in files}}
    return found


PREFLIGHTS = [OBJECTIVE, "preflight[onnx]", "preflight[tflite]"]


def test_a_good_student_exports_and_nothing_else_runs(good: dict[str, Any]) -> None:
    document = good["first"]["run"].document
    for entry in document["preflight"]:
        assert (entry["exports"], entry["why_not"]) == (True, "")
        assert entry["ops"]["undelegated"] == []
        assert entry["ops"]["stray_transposes"] == 0
    assert [step["name"] for step in document["steps"] if step["cached"]] == PREFLIGHTS
    assert good["first"]["steps"] == set(PREFLIGHTS)


def test_what_was_tried_is_not_tried_again(good: dict[str, Any]) -> None:
    assert good["second"]["run"].document == good["first"]["run"].document
    assert good["second"]["written"] == good["first"]["written"]
    assert [line.partition(" ")[2] for line in good["second"]["run"].stderr.splitlines()] == [
        f"{name}: cached" for name in PREFLIGHTS
    ]


def test_it_is_as_large_as_the_file_that_is_built(good: dict[str, Any]) -> None:
    tried = {entry["target"]: entry for entry in good["first"]["run"].document["preflight"]}
    for artifact in good["build"]["run"].document["artifacts"]:
        assert tried[artifact["target"]]["bytes"] == pytest.approx(artifact["bytes"], rel=0.2)
        assert tried[artifact["target"]]["ops"] == artifact["ops"]
    assert set(PREFLIGHTS) < good["build"]["steps"]


@pytest.fixture
def tried(here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """The step itself, for a student and a target with other words in it."""
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(str(here))

    def run(student: str, precision: str, limits: str = "max_abs_diff = 0.1", coverage: str = "") -> dict[str, Any]:
        text = (here / "onnx.toml").read_text().replace('"int8"', f'"{precision}"').replace("max_lsb = 8", limits)
        (here / "other.toml").write_text(text + coverage)
        source = load_recipe("digits", settings(student))
        made = make_plan(resolve_paths(source), ["other.toml"], Fingerprints(here / "fingerprints.json"))
        step = made.by_name["preflight[other]"]
        return preflight(Work(step.config, {}, here, 0))

    return run


@pytest.mark.parametrize("precision", ["float32", "float16", "int8-weights"])
def test_every_precision_is_tried(precision: str, tried: Callable[..., dict[str, Any]]) -> None:
    facts = tried("good", precision)
    parameters = 16 * 9 + 16 + 16 * 16 * 9 + 16 + 16 * 10 + 10
    width = {"float32": 4, "float16": 2, "int8-weights": 1}[precision]
    assert width * parameters < facts["bytes"] < width * parameters + 6000
    assert facts["ops"]["total"] > 3


def test_operations_beyond_the_targets_limits_are_named(tried: Callable[..., dict[str, Any]]) -> None:
    assert tried("good", "int8", "max_lsb = 8", "float_islands = 0")["ops"]["float_islands"] == []
    with pytest.raises(GateError, match=r"1 float islands \(\d+:Sin \(1\)\), the target allows 0"):
        tried("sine", "int8", "max_lsb = 8", "float_islands = 0")


@pytest.mark.parametrize(
    ("student", "words"),
    [
        ("single", r"takes one sample at a time \(shape '\[1, 16, 8, 8\]' is invalid for input of size 2048\)"),
        ("folding", "takes one sample at a time"),
        ("twelve", "has 12 outputs, the data has 10 classes"),
    ],
)
def test_a_student_that_cannot_be_trained_is_refused(
    student: str, words: str, tried: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(UsageError, match=f"student: students:{student} {words}"):
        tried(student, "float32")


def test_the_step_says_what_the_plan_says(tried: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ExportError, match=r"bessel_j0 in layer 'middle.1' \(Bessel\)"):
        tried("odd", "float32")
