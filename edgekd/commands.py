"""What each verb of the command line does: a result as a JSON document and as text."""

import dataclasses
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.config import nearest
from edgekd.errors import GateError, MeasurementError, UsageError
from edgekd.processes import Crew

if TYPE_CHECKING:
    from edgekd.build import BuildResult
    from edgekd.plan import Plan
    from edgekd.recipe import Source

CALIBRATION_SECONDS = 6.0


@dataclass(frozen=True)
class Result:
    """What a command prints: `document` with --json, else `text`; and how it ends."""

    document: Any
    text: str
    exit_code: int = 0


def build_command(
    recipe: str | None,
    targets: Sequence[str],
    overrides: Sequence[str],
    devices: Sequence[str],
    out: Path,
    crew: Crew | None = None,
) -> Result:
    with _planned(recipe, targets, overrides, devices) as (plans, source):
        if source.rungs:
            if crew is not None:
                raise UsageError("a ladder is built by one process; start it without torchrun or accelerate launch")
            return _build_ladder(plans, source, out)
        return _build(plans[0], source, out, crew)


def _build(plan: "Plan", source: "Source", out: Path, crew: Crew | None) -> Result:
    from edgekd.build import build, store_root
    from edgekd.progress import watching
    from edgekd.store import Store

    with watching(len(plan.steps)) as watcher:
        watcher.say(f"recipe: {source.origin}")
        result = build(plan, Store(store_root(source.folder)), out, watcher, crew)
    document = _build_document(plan, result)
    return Result(document, "\n".join([*map(_artifact_line, document["artifacts"]), f"report: {result.report}"]))


def _build_document(plan: "Plan", result: "BuildResult") -> dict[str, Any]:
    """What was built, as JSON. Says on the way which measurements are not valid."""
    artifacts = [{**entry, "path": str(result.report.parent / entry["path"])} for entry in result.document["artifacts"]]
    for entry in artifacts:
        for measurement in entry["measurements"]:
            if not measurement["valid"]:
                reason = measurement["why_not_valid"]
                print(f"edgekd: {entry['target']} on {measurement['device']} not valid: {reason}", file=sys.stderr)
    return {
        "recipe": plan.recipe.name,
        "report": str(result.report),
        "artifacts": artifacts,
        "steps": [
            {"name": name, "key": done.artifact.key, "cached": done.cached, "seconds": done.seconds}
            for name, done in result.steps.items()
        ],
    }


def _build_ladder(plans: Sequence["Plan"], source: "Source", out: Path) -> Result:
    """Every rung, whatever becomes of the others; one that fails a gate decides how it ends."""
    from edgekd.build import build, store_root
    from edgekd.progress import watching
    from edgekd.report.ladder import build_ladder, write_ladder
    from edgekd.store import Store

    found: dict[str, dict[str, Any] | GateError] = {}
    documents = {}
    for plan in plans:
        with watching(len(plan.steps)) as watcher:
            watcher.say(f"recipe: {source.origin}, ladder.{plan.rung}")
            try:
                result = build(plan, Store(store_root(source.folder)), out, watcher)
            except GateError as error:
                found[plan.rung] = error
                print(f"edgekd: ladder.{plan.rung}: {error}", file=sys.stderr)
                continue
        found[plan.rung], documents[plan.rung] = result.document, _build_document(plan, result)
    ladder = build_ladder(source.recipe.name, found)
    page = write_ladder(out / source.recipe.name, ladder)
    failed = [one for one in found.values() if isinstance(one, GateError)]
    return Result(
        {"recipe": source.recipe.name, "ladder": ladder, "report": str(page), "rungs": documents},
        f"{_ladder_text(ladder)}\nreport: {page}",
        failed[0].exit_code if failed else 0,
    )


def _ladder_text(ladder: dict[str, Any]) -> str:
    from edgekd.report.ladder import COSTS, UNITS
    from edgekd.tasks.metrics import TITLES, shown

    tables = []
    for target in ladder["targets"]:
        header = ("rung", TITLES[target["metric"]], "parameters", *UNITS.values(), "on the front of")
        rows = [
            (
                rung["rung"],
                shown(rung["accuracy"], target["metric"]),
                f"{rung['params']:,}",
                f"{rung['bytes']:,}",
                f"{rung['macs']:,}",
                "-" if rung["p50_ms"] is None else f"{rung['p50_ms']:.4g}",
                ", ".join(COSTS[cost] for cost in rung["front"]) or "-",
            )
            for rung in target["rungs"]
        ]
        tables.append(f"{target['target']}\n{_table(header, rows)}")
    return "\n".join([*tables, *(f"{rung}: {why}" for rung, why in ladder["failed"].items())])


def follow_command(
    recipe: str | None, targets: Sequence[str], overrides: Sequence[str], devices: Sequence[str], crew: Crew
) -> None:
    """What a build does in a process that another one leads."""
    from edgekd.build import follow, store_root
    from edgekd.store import Store

    with _planned(recipe, targets, overrides, devices) as (plans, source):
        if not source.rungs:
            follow(plans[0], Store(store_root(source.folder)), crew)


def plan_command(
    recipe: str | None, targets: Sequence[str], overrides: Sequence[str], devices: Sequence[str]
) -> Result:
    with _planned(recipe, targets, overrides, devices) as (plans, source):
        found = [_plan(plan, source) for plan in plans]
    if not source.rungs:
        return found[0]
    documents = {plan.rung: one.document for plan, one in zip(plans, found, strict=True)}
    code = next((one.exit_code for one in found if one.exit_code), 0)
    return Result({"recipe": source.recipe.name, "rungs": documents}, "\n\n".join(one.text for one in found), code)


def _plan(plan: "Plan", source: "Source") -> Result:
    from edgekd.build import preflight, reached, store_root
    from edgekd.progress import watching
    from edgekd.store import Store

    store = Store(store_root(source.folder))
    with watching(len(plan.preflights) + len(plan.targets)) as watcher:
        flights = preflight(plan, store, watcher)
    devices_found = list(reached(plan, store))
    steps: list[dict[str, Any]] = [
        {"name": step.name, "key": plan.keys[step.name], "cached": store.get(plan.keys[step.name]) is not None}
        for step in plan.steps
    ]
    preflights = [
        {"target": target.name, "exports": found.error is None, "why_not": str(found.error or ""), **found.facts}
        for target, found in zip(plan.targets, flights, strict=True)
    ]
    document = {
        "recipe": plan.recipe.name,
        "origin": source.origin,
        "student": str(plan.recipe.student.folder or plan.recipe.student.model),
        "targets": [target.name for target in plan.targets],
        "preflight": preflights,
        "devices": [
            {"device": found.device, "reached": found.error is None, "why_not": str(found.error or "")}
            for found in devices_found
        ],
        "steps": steps,
    }
    rows = [(step["name"], "cached" if step["cached"] else "to run", str(step["key"])[:16]) for step in steps]
    name = f"{source.origin}, ladder.{plan.rung}" if plan.rung else source.origin
    text = f"recipe: {name}\nstudent: {document['student']}\n{_table(('step', 'state', 'key'), rows)}"
    for entry in preflights:
        text += f"\n{entry['target']}: " + (
            f"exports, about {entry['bytes']:,} bytes" if entry["exports"] else f"will not export: {entry['why_not']}"
        )
    for found in devices_found:
        text += f"\n{found.device}: " + (f"cannot be reached: {found.error}" if found.error else "reached")
    errors = [error for error in (*(one.error for one in flights), *(one.error for one in devices_found)) if error]
    return Result(document, text, errors[0].exit_code if errors else 0)


def verify_command(artifact_dir: Path) -> Result:
    from edgekd.verify.published import verify_published

    document = verify_published(artifact_dir)
    checks = ", ".join(f"{name}: {value}" for name, value in document["checks"].items())
    return Result(document, f"{artifact_dir}: good ({checks})")


def bench_command(model: Path, device: str, protocol: str, samples: Path | None) -> Result:
    import numpy as np

    from edgekd.bench.energy import sentence
    from edgekd.bench.foreign import likeness, trial
    from edgekd.bench.measurement import kept, measure
    from edgekd.bench.protocol import PROTOCOLS
    from edgekd.progress import watching
    from edgekd.publish import check_writable

    if protocol not in PROTOCOLS:
        raise UsageError(f"protocol '{protocol}' is not known; {nearest(protocol, PROTOCOLS)}")
    if samples is not None:
        check_writable(samples.parent)
    _check_model(model, device)
    with watching(1) as watcher, watcher.step(f"measure {model.name}") as progress:
        known = trial(model)
        measured = measure(
            model, device, PROTOCOLS[protocol], known.inputs, outputs=len(known.outputs), progress=progress
        )
    if samples is not None:
        with samples.open("wb") as stream:
            np.save(stream, kept(measured.runs_ns))
    measurement, alike = measured.measurement, likeness(known.outputs, measured.outputs)
    if not alike.alike:
        raise GateError(
            f"{model} on {device}: an output is {alike.largest:g} off this machine's, above {alike.tolerance:g}; "
            "the device's runtime computes it otherwise"
        )
    document = {
        "model": str(model),
        "bytes": model.stat().st_size,
        "outputs": dataclasses.asdict(alike),
        **dataclasses.asdict(measurement),
    }
    if not measurement.valid:
        print(f"edgekd: not valid: {measurement.why_not_valid}", file=sys.stderr)
        return Result(document, f"{model} on {device}: not valid, no times reported", MeasurementError.exit_code)
    return Result(document, _bench_text(model, document, sentence(measurement.energy)))


def against_command(model: Path, against: Path, device: str) -> Result:
    from edgekd.bench.interleaved import compare
    from edgekd.progress import watching

    for file in (model, against):
        _check_model(file, device)
    with watching(1) as watcher, watcher.step(f"measure {model.name} against {against.name}") as progress:
        found = compare(model, against, device=device, progress=progress)
    ratio = found.ratio
    verdict = "no difference that this shows"
    if ratio.high < 1 or ratio.low > 1:
        verdict = f"{model.name} is {'faster' if ratio.high < 1 else 'slower'}"
    document = {"model": str(model), "against": str(against), **dataclasses.asdict(found), "verdict": verdict}
    return Result(
        document,
        f"{model} against {against} on {found.device}: {ratio.value:.4f} of its time "
        f"({ratio.low:.4f} to {ratio.high:.4f}), {found.timing}; {verdict}\n"
        f"p50 {found.model_ms:.4g} ms against {found.against_ms:.4g} ms, {found.runs:,} runs each in "
        f"{found.processes} processes, in turns",
    )


def report_command(build_dir: Path) -> Result:
    from edgekd.report.files import render_again

    page = render_again(build_dir)
    return Result({"report": str(page)}, f"report: {page}")


def init_command(recipe: str) -> Result:
    from edgekd.recipe import FILE_NAME
    from edgekd.resources import BUILT_IN_RECIPES

    names = [entry.stem for entry in BUILT_IN_RECIPES.glob("*.toml")]
    if recipe not in names:
        raise UsageError(f"recipe '{recipe}' is not known; {nearest(recipe, names)}")
    file = Path(FILE_NAME)
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write((BUILT_IN_RECIPES / f"{recipe}.toml").read_text(encoding="utf-8"))
    except FileExistsError:
        raise UsageError(f"{file} is here already; remove it first, or edit it") from None
    return Result({"recipe": str(file)}, f"wrote {file}; build it with: edgekd build --target tflite-arm")


def targets_command() -> Result:
    from edgekd.target import load_target, target_names

    loaded = {name: load_target(name) for name in target_names()}
    rows = [(name, target.format, target.precision, target.title) for name, target in loaded.items()]
    document = [{"name": name, **dataclasses.asdict(target)} for name, target in loaded.items()]
    return Result(document, _table(("target", "format", "precision", ""), rows))


def setup_command(device: str) -> Result:
    from edgekd.device import load_device
    from edgekd.progress import watching
    from edgekd.runners.setup import setup

    profile = load_device(device)
    with watching(1) as watcher, watcher.step(f"set up {device}") as progress:
        setup(profile, progress)
    return Result({"device": device}, f"{device}: ready; measure with: edgekd bench MODEL --device {device}")


def calibrate_command(device: str) -> Result:
    from edgekd.bench.calibration import CALIBRATIONS, store
    from edgekd.cache import cache_dir
    from edgekd.progress import watching
    from edgekd.runners.measurable import require_ready
    from edgekd.runners.session import session

    profile = require_ready(device)
    with watching(1) as watcher, watcher.step(f"calibrate {device}"), session(profile) as held:
        rates = held.rates(CALIBRATION_SECONDS)
    found = store(device, dataclasses.asdict(rates), cache_dir() / CALIBRATIONS)
    return Result(
        {**dataclasses.asdict(found), "timing": profile.timing},
        f"{device}: {found.bandwidth_bytes_per_s / 1e9:.3g} GB/s, {found.float32_flops_per_s / 1e9:.3g} Gflop/s in "
        f"float32, {found.int8_ops_per_s / 1e9:.3g} Gop/s in int8, of one core, {profile.timing}, {found.date}",
    )


def devices_command() -> Result:
    from edgekd.device import device_names, load_device

    loaded = {name: load_device(name) for name in device_names()}
    rows = [(name, device.runner, device.timing, device.title) for name, device in loaded.items()]
    document = [{"name": name, **dataclasses.asdict(device)} for name, device in loaded.items()]
    return Result(document, _table(("device", "runner", "timing", ""), rows))


def doctor_command() -> Result:
    from edgekd.doctor import examine

    document = examine()
    packages = [
        (name, state["installed"] or "missing", state["tested"] or "") for name, state in document["packages"].items()
    ]
    lines = [_table(("package", "installed", "tested with"), packages), ""]
    for name, state in document["targets"].items():
        lines.append(
            f"{name}: ready" if state["ready"] else f"{name}: missing {', '.join(state['missing'])}; {state['mend']}"
        )
    lines += ["", *(f"{name}: {state}" for name, state in document["devices"].items())]
    return Result(document, "\n".join(lines))


@contextmanager
def _planned(recipe, targets, overrides, devices):  # type: ignore[no-untyped-def]
    """The plans of a recipe, one for each rung of its ladder, and its source; while the context lasts, modules beside
    the recipe can be imported.
    """
    from edgekd.build import store_root
    from edgekd.keys import Fingerprints
    from edgekd.plan import make_plan
    from edgekd.recipe import load_recipe, resolve_paths
    from edgekd.references import importable

    source = load_recipe(recipe, overrides)
    rungs = {rung: dataclasses.replace(source, recipe=one) for rung, one in source.rungs.items()} or {"": source}
    with importable(source.folder):
        fingerprints = Fingerprints(store_root(source.folder) / "fingerprints.json")
        plans = [make_plan(resolve_paths(one), targets, fingerprints, devices, rung) for rung, one in rungs.items()]
        fingerprints.save()
        yield plans, source


def _check_model(model: Path, device: str) -> None:
    """Refuse a file that cannot be looked into here, is none of its format, or cannot be run on the device."""
    from edgekd.dependencies import require_runtime
    from edgekd.readers import check_file
    from edgekd.runners.measurable import require_runnable
    from edgekd.runtimes import runtime_for

    require_runtime(runtime_for(model))
    check_file(model)
    require_runnable(model, device)


def _artifact_line(entry: dict[str, Any]) -> str:
    from edgekd.tasks.metrics import TITLES, shown

    valid = [measurement for measurement in entry["measurements"] if measurement["valid"]]
    times = "; ".join(f"p50 {m['p50_ms']['value']:.4g} ms on {m['device']} ({m['timing']})" for m in valid)
    scores = {model: shown(value, entry["metric"]) for model, value in entry["accuracy"].items()}
    return (
        f"{entry['path']}: {entry['bytes']:,} bytes, {TITLES[entry['metric']]} {scores['exported']} "
        f"(student {scores['student_float']}, teacher {scores['teacher']}), "
        f"scales {entry['quantizers']['exact']}/{entry['quantizers']['learned']} exact{_int4_words(entry['weights'])}; "
        f"{times or ('no valid measurement' if entry['measurements'] else 'not measured')}"
    )


def _int4_words(weights: dict[str, Any]) -> str:
    from edgekd.compress.quantizers import INT4

    return f", weights {weights['int4']:,} in 4 bits and {weights['int8']:,} in 8" if weights["bits"] == INT4 else ""


def _bench_text(model: Path, document: dict[str, Any], energy: str) -> str:
    def times(name: str) -> str:
        percentile = document[f"{name}_ms"]
        if percentile is None:
            return f"{name} not supported by {document['samples']} runs"
        return f"{name} {percentile['value']:.4g} ms ({percentile['low']:.4g} to {percentile['high']:.4g})"

    return "\n".join(
        [
            f"{model} on {document['device']}: {times('p50')}, {times('p90')}, {document['timing']}",
            f"load {document['load_ms']:.3g} ms, {_memory_text(document)}, {document['samples']:,} runs, "
            f"protocol {document['protocol']}, {document['harness']}",
            f"outputs as on this machine: at most {document['outputs']['largest']:g} off in "
            f"{document['outputs']['samples']} samples",
            energy,
        ]
    )


def _memory_text(document: dict[str, Any]) -> str:
    peak, base = document["peak_memory_bytes"], document["base_memory_bytes"]
    if peak is None or base is None:
        return "memory not told by the device"
    contains = f", with {document['memory_contains']} in it" if document["memory_contains"] else ""
    return f"peak memory {peak / 1e6:.1f} MB ({(peak - base) / 1e6:.1f} MB above the runtime's own{contains})"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *rows)]
    return "\n".join(line.rstrip() for line in lines)
