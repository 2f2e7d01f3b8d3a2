"""Runs a plan through the store, publishes each target that passed, and writes the report.

Where a launcher started several processes, one builds, and the others follow it.
"""

import dataclasses
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock

from edgekd import __version__
from edgekd.artifact import Artifact, Facts, Provenance
from edgekd.errors import DependencyError, DeviceError, EdgekdError, ExportError, GateError
from edgekd.export.card import meaning
from edgekd.keys import source_digest
from edgekd.plan import PREFLIGHT, Plan, TargetPlan, versions_of
from edgekd.processes import Crew
from edgekd.publish import check_writable, publish, withdraw
from edgekd.report.document import build_document, measurement_document
from edgekd.report.files import write_report
from edgekd.runners.measurable import reach
from edgekd.step import Progress, Step, Work, silent
from edgekd.step_configs import MeasureConfig
from edgekd.store import Order, Store


class Watcher(Protocol):
    """Who is told how a build goes."""

    def step(self, name: str) -> AbstractContextManager[Progress]: ...

    def done(self, name: str, cached: bool, seconds: float) -> None: ...


class NobodyWatches:
    """A build without an audience."""

    def step(self, name: str) -> AbstractContextManager[Progress]:
        return nullcontext(silent)

    def done(self, name: str, cached: bool, seconds: float) -> None:
        pass


@dataclass(frozen=True)
class StepResult:
    """One step of a finished build; seconds are those of this run, 0 for a step that was there already."""

    artifact: Artifact
    cached: bool
    seconds: float


@dataclass(frozen=True)
class BuildResult:
    """Where the report is, and what every step gave."""

    report: Path
    document: dict[str, Any]
    steps: Mapping[str, StepResult]


def store_root(folder: Path) -> Path:
    """`$EDGEKD_STORE`, or `.edgekd` beside the recipe."""
    chosen = os.environ.get("EDGEKD_STORE")
    return Path(chosen).expanduser().resolve() if chosen else folder / ".edgekd"


def build(plan: Plan, store: Store, out: Path, watcher: Watcher | None = None, crew: Crew | None = None) -> BuildResult:
    """Make what is missing, publish to OUT/<recipe>/<target>, write OUT/<recipe>/report.{json,html}; of a ladder, below
    OUT/<recipe>/<rung>.

    Where the student is trained already, its real export is the only one: nothing is tried before.
    Raises DeviceError or DependencyError, before anything is made, if a device cannot be reached. Raises GateError if a
    check fails; the target that failed is then not under its final name, not even from an
    earlier build. What was made before the failure stays in the store.

    crew: the processes of a launch; the others are in `follow`.
    """
    home = out / plan.recipe.name / plan.rung
    check_writable(home)
    check_writable(store.root)
    watcher = watcher or NobodyWatches()
    results: dict[str, StepResult] = {}
    trained = store.get(plan.keys["program"]) is not None
    for found in reached(plan, store):
        if found.error is not None:
            raise found.error
    for step in plan.steps:
        if step.ensures == PREFLIGHT and trained:
            continue
        try:
            results[step.name] = _run(step, plan, store, results, watcher, crew)
        except GateError:
            for target in plan.targets:
                if step.name in _ancestry(plan, target):
                    withdraw(home / target.name)
            raise
    artifacts = {name: result.artifact for name, result in results.items()}
    with FileLock(home / ".lock"):
        for target in plan.targets:
            publish(home / target.name, *_contents(plan, target, artifacts))
        document = build_document(plan, artifacts)
        report = write_report(home, document)
    return BuildResult(report, document, results)


def follow(plan: Plan, store: Store, crew: Crew) -> None:
    """Do this process's part of each step that the building process calls, until that one ends."""
    for name in crew.calls():
        step = plan.by_name[name]
        inputs = {role: store.get(plan.keys[source]) for role, source in step.inputs.items()}
        scratch = store.scratch(plan.keys[name])
        with tempfile.TemporaryDirectory() as out, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            step.load()(Work(step.config, inputs, Path(out), step.seed, silent, scratch))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Reached:
    """A device, and why it cannot be reached."""

    device: str
    error: EdgekdError | None = None


def reached(plan: Plan, store: Store) -> Iterator[Reached]:
    """Reach each device that is still to be measured on: better to know now than when all is trained."""
    configs = [step.config for step in plan.steps if store.get(plan.keys[step.name]) is None]
    for device in dict.fromkeys(config.device for config in configs if isinstance(config, MeasureConfig)):
        try:
            reach(device)
        except (DependencyError, DeviceError) as error:
            yield Reached(device, error)
        else:
            yield Reached(device)


@dataclass(frozen=True)
class Preflight:
    """What came of exporting the untrained student for a target: facts, or why it cannot be done."""

    facts: Mapping[str, Any]
    error: EdgekdError | None = None


def preflight(plan: Plan, store: Store, watcher: Watcher | None = None) -> list[Preflight]:
    """Try the objective, and each target of a plan with the untrained student; nothing else runs. What was tried before
    is not again. Raises UsageError if the objective does not fit the models.
    """
    check_writable(store.root)
    for step in plan.preflights:
        _run(step, plan, store, {}, watcher or NobodyWatches())
    found = []
    for target in plan.targets:
        try:
            result = _run(plan.by_name[target.preflight], plan, store, {}, watcher or NobodyWatches())
            found.append(Preflight(result.artifact.facts))
        except (ExportError, GateError) as error:
            found.append(Preflight({}, error))
    return found


def _run(
    step: Step,
    plan: Plan,
    store: Store,
    results: Mapping[str, StepResult],
    watcher: Watcher,
    crew: Crew | None = None,
) -> StepResult:
    key = plan.keys[step.name]
    if found := store.get(key):
        watcher.done(step.name, True, 0.0)
        return StepResult(found, True, 0.0)
    inputs = {role: results[source].artifact for role, source in step.inputs.items()}
    provenance = Provenance(
        config=_plain(step.config),
        inputs={role: artifact.key for role, artifact in inputs.items()},
        sources=source_digest((step.function.partition(":")[0], *step.modules)),
        versions={"edgekd": __version__, **versions_of(step)},
        seed=step.seed,
        seconds=0.0,
        created="",
    )
    with watcher.step(step.name) as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        artifact, cached = store.obtain(
            Order(key, step.name, step.ensures, provenance),
            lambda out: _make(step, Work(step.config, inputs, out, step.seed, progress, store.scratch(key)), crew),
        )
    seconds = 0.0 if cached else artifact.provenance.seconds
    watcher.done(step.name, cached, seconds)
    return StepResult(artifact, cached, seconds)


def _make(step: Step, work: Work[Any], crew: Crew | None) -> Facts:
    # Read when torch is loaded: threads that wait by spinning make training many times slower on a shared machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    function = step.load()
    if crew is None or not step.distributed:
        return function(work)
    crew.call(step.name)
    try:
        return function(work)
    except RuntimeError as error:
        raise crew.cause(error) from error


def _ancestry(plan: Plan, target: TargetPlan) -> set[str]:
    """The steps that a published target rests on."""
    found: set[str] = set()
    waiting = [target.checks]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += plan.by_name[name].inputs.values()
    return found


def _contents(
    plan: Plan, target: TargetPlan, artifacts: Mapping[str, Artifact]
) -> tuple[dict[str, Any], dict[str, tuple[Artifact, str]]]:
    export, checks = artifacts[target.export], artifacts[target.checks]
    float_export, data = artifacts[target.float_export], artifacts["data"]
    files = {
        **{name: (export, name) for name in export.facts["files"]},
        "golden.npz": (checks, "golden.npz"),
        **{f"float32/{name}": (float_export, name) for name in float_export.facts["files"]},
        **{name: (data, name) for name in data.facts["app_files"]},
    }
    for name in target.all_measurements:
        if "samples.npy" in artifacts[name].files:
            files[f"measurements/{_file_name(name)}.npy"] = (artifacts[name], "samples.npy")
    table = json.loads(artifacts["program"].file("table.json").read_text())
    manifest = {
        "edgekd": __version__,
        "recipe": plan.recipe.name,
        "target": target.name,
        "format": target.target.format,
        "runtime": target.target.runtime,
        "precision": target.target.precision,
        "model": export.facts["file"],
        "files": {name: vars(artifact.files[source]) for name, (artifact, source) in files.items()},
        "task": data.facts["task"],
        "outputs": data.facts["outputs"],
        "labels": data.facts["labels"],
        "input": {**checks.facts["input"], "preprocessing": _app_input(data, checks)},
        "output": {
            **checks.facts["output"],
            "meaning": meaning(checks.facts["output"]["form"], data.facts["outputs"]),
        },
        "accuracy": checks.facts["accuracy"],
        "metric": checks.facts["metric"],
        "parity": {**checks.facts["parity"], "limits": checks.facts["limits"]},
        "quantizers": table,
        "measurements": [
            {**measurement_document(artifacts[name]), "samples_file": f"measurements/{_file_name(name)}.npy"}
            for name in target.measurements
        ],
        "keys": {name: plan.keys[name] for name in sorted(_ancestry(plan, target))},
    }
    return manifest, files


def _app_input(data: Artifact, checks: Artifact) -> dict[str, Any]:
    """The preprocessing as the app does it: for pixels, the int8 input is the pixel moved by a whole number."""
    preprocessing = dict(data.facts["preprocessing"])
    if preprocessing["input"] == "raw pixels" and not checks.facts["input"]["scale"]:
        preprocessing["to_input"] = f"{checks.facts['input']['dtype']} value = pixel"
        preprocessing["note"] = "the model does the normalisation (pixel - mean) / std itself"
    elif preprocessing["input"] == "token ids":
        preprocessing["to_input"] = "the token ids themselves"
    elif preprocessing["input"] == "raw pixels":
        offset = checks.facts["input"]["zero_point"] - preprocessing["mean"]
        preprocessing["to_input"] = f"{checks.facts['input']['dtype']} value = pixel {offset:+d}"
        preprocessing["note"] = "the normalisation (pixel - mean) / std is the scale and zero point of the input"
    elif checks.facts["input"]["scale"]:
        preprocessing["to_input"] = "int8 value = round(feature / scale) + zero_point, clipped to -128 and 127"
    else:
        preprocessing["to_input"] = "the float feature itself"
    return preprocessing


def _file_name(step_name: str) -> str:
    return step_name.removeprefix("measure[").removesuffix("]").replace(" ", "-")


def _plain(config: Any) -> Any:
    """A config for the record: as JSON, paths by name."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str)) if config is not None else None
