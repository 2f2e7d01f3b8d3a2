"""Latency, load time, memory and energy of one model on one device, and what the model answers there."""

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.bench import validity
from edgekd.bench.energy import WINDOW_SECONDS, Energy, Recording, energy, run_starts
from edgekd.bench.power import find_source
from edgekd.bench.power.source import NoSource, Series, Source
from edgekd.bench.protocol import WARMUP_RUNS, WARMUP_SECONDS, Protocol
from edgekd.bench.statistics import Percentile, percentile, stability
from edgekd.device import DeviceProfile, device_label, load_device
from edgekd.runners.events import ModelOutcome, Outcome, Phase
from edgekd.runners.job import Job
from edgekd.runners.libraries import find
from edgekd.runners.measurable import architecture_of, require_measurable
from edgekd.runners.session import DeviceSession, ModelFiles, session
from edgekd.runtimes import runtime_on
from edgekd.step import Progress, silent

ATTEMPTS = 3
THREADS = 1
IDLE_SECONDS = 10.0
"""Before the runs, where power is read: what the device draws with nothing to do."""
SAMPLE_MS = 100


@dataclass(frozen=True)
class Measurement:
    """What was seen on a device. Times in milliseconds, memory in bytes.

    timing: measured, emulated or estimated. samples: runs behind the percentiles; p90 is None if they are too few.
    spread, drift: see `edgekd.bench.statistics.Stability`; process_spread: the same between processes, or None.
    peak_memory_bytes: of the whole process up to the end of its runs; base_memory_bytes: of the same with the runtime
    in it, before the model was loaded; arena_bytes: what the runtime says it took for tensors, or None.
    memory_contains: what else is in these figures, or nothing. None: the device does not tell.
    """

    device: str
    timing: str
    machine: dict[str, Any]
    harness: str
    protocol: str
    processes: int
    threads: int
    attempts: int
    samples: int
    p50_ms: Percentile | None
    p90_ms: Percentile | None
    load_ms: float
    peak_memory_bytes: int | None
    base_memory_bytes: int | None
    arena_bytes: int | None
    memory_contains: str
    energy: Energy
    spread: float
    process_spread: float | None
    drift: float
    valid: bool
    why_not_valid: str
    state_before: dict[str, Any]
    state_after: dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """A measurement, its raw run times (nanoseconds, one int64 array a process), and the outputs of all samples."""

    measurement: Measurement
    runs_ns: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]


def measure(
    model: Path,
    device: str,
    protocol: Protocol,
    inputs: Sequence[np.ndarray] = (),
    outputs: int = 0,
    runtime: str | None = None,
    progress: Progress = silent,
) -> Measured:
    """Measure by the protocol with one thread, again (up to three times in all) while the runs are not stable.

    inputs: one array for each input of the model, shape (N, ...) with samples as the model takes them; the first is
    what is timed. Without any, the device makes them up. outputs: how many outputs the model has, to bring back what
    it answers to all samples, shape (N, ...); 0 for none. runtime: by default the one for the file on this device.
    A measurement that stays unstable is returned with valid=False and the reason.

    Raises UsageError for a device that is not known, DependencyError for one that is not set up, DeviceError if it
    cannot be reached, has no such runtime, or its runtime refuses the model.
    """
    profile = load_device(device)
    runtime = runtime or runtime_on(model, architecture_of(profile))
    require_measurable(device, runtime)
    with session(profile) as held, tempfile.TemporaryDirectory(prefix="edgekd-") as place:
        files = model_files(model, runtime, inputs, outputs, Path(place))
        source = _source(held, profile, protocol)
        for attempt in range(1, ATTEMPTS + 1):
            outcomes = []
            for process in range(protocol.processes):
                progress(process, protocol.processes, f"{protocol.seconds:g} s each, attempt {attempt}")
                outcomes.append(held.run(_job(protocol, source), [files]))
            reason = _why_not_valid(outcomes, profile)
            if not reason:
                break
        progress(protocol.processes, protocol.processes)
        answers = answers_of(files, outcomes[0].models[0])
        series = [outcome.models[0].ns for outcome in outcomes]
        every = np.concatenate(series)
        p50 = percentile(every, 0.5)
        spread, process_spread, drift = _steadiness(series)
        first, last = outcomes[0].models[0], outcomes[-1]
        measurement = Measurement(
            device=device_label(device),
            timing=profile.timing,
            machine=_machine(held),
            harness=f"edgekd's agent, {files.runtime} {find(files.runtime, held.architecture).version}",
            protocol=protocol.name,
            processes=protocol.processes,
            threads=THREADS,
            attempts=attempt,
            samples=len(every),
            p50_ms=p50,
            p90_ms=percentile(every, 0.9),
            load_ms=float(np.median([outcome.models[0].load_ns for outcome in outcomes])) / 1e6,
            peak_memory_bytes=max((one.peak_bytes for one in outcomes if one.peak_bytes is not None), default=None),
            base_memory_bytes=first.base_bytes,
            arena_bytes=last.arena_bytes,
            memory_contains="the emulator" if profile.runner == "emulator" else "",
            energy=energy(source, [_recording(outcome) for outcome in outcomes], profile, p50, THREADS),
            spread=spread,
            process_spread=process_spread,
            drift=drift,
            valid=not reason,
            why_not_valid=reason,
            state_before=dataclasses.asdict(outcomes[0].before),
            state_after=dataclasses.asdict(last.after),
        )
    return Measured(measurement, tuple(series), answers)


def kept(runs_ns: Sequence[np.ndarray]) -> np.ndarray:
    """Raw run times for a file: shape (processes, runs) cut to the shortest process, in the smallest integers."""
    shortest = min(map(len, runs_ns))
    stacked = np.stack([one[:shortest] for one in runs_ns])
    return stacked.astype(np.min_scalar_type(int(stacked.max())))


def model_files(model: Path, runtime: str, inputs: Sequence[np.ndarray], outputs: int, folder: Path) -> ModelFiles:
    """A model and its inputs as files for a device, and places for its outputs, in `folder`."""
    given = tuple(folder / f"{model.stem}-in{position}.bin" for position in range(len(inputs)))
    for file, array in zip(given, inputs, strict=True):
        np.ascontiguousarray(array).tofile(file)
    return ModelFiles(
        runtime, model, given, tuple(folder / f"{model.stem}-out{position}.bin" for position in range(outputs))
    )


def answers_of(files: ModelFiles, seen: ModelOutcome) -> tuple[np.ndarray, ...]:
    """What a model answered to all samples, an array for each output, shape (N, ...) without the batch of one."""
    return tuple(
        np.fromfile(file, dtype=tensor.dtype).reshape(seen.samples, *tensor.shape[1:])
        for file, tensor in zip(files.outputs, seen.outputs, strict=bool(files.outputs))
    )


def _source(held: DeviceSession, profile: DeviceProfile, protocol: Protocol) -> Source | NoSource:
    """Where power is read: nowhere in a protocol that is shorter than a window of energy."""
    source = find_source(held.description.sensors, profile.power)
    if isinstance(source, Source) and protocol.seconds < WINDOW_SECONDS:
        return NoSource(f"{source.what} is not read in less than {WINDOW_SECONDS:g} s of runs; use a longer protocol")
    return source


def _job(protocol: Protocol, source: Source | NoSource) -> Job:
    return Job(
        threads=THREADS,
        warmup_runs=WARMUP_RUNS,
        warmup_seconds=WARMUP_SECONDS,
        runs=protocol.runs,
        seconds=protocol.seconds,
        idle_seconds=IDLE_SECONDS if isinstance(source, Source) else 0.0,
        sample_ms=SAMPLE_MS if isinstance(source, Source) else None,
        samples=source.paths if isinstance(source, Source) else (),
    )


def _steadiness(series: Sequence[np.ndarray]) -> tuple[float, float | None, float]:
    """Spread, spread between processes or None, and drift: the worst of all processes."""
    steady = [stability(one) for one in series]
    medians = np.array([np.median(one) for one in series])
    between = float(medians.std() / np.median(np.concatenate(series))) if len(series) > 1 else None
    return max(one.spread for one in steady), between, max((one.drift for one in steady), key=abs)


def _why_not_valid(outcomes: Sequence[Outcome], profile: DeviceProfile) -> str:
    spread, between, drift = _steadiness([outcome.models[0].ns for outcome in outcomes])
    limit = profile.hardware.throttles_at_celsius if profile.hardware else None
    before, after = (dataclasses.asdict(state) for state in (outcomes[0].before, outcomes[-1].after))
    jumps = (validity.clock_jumped(one.models[0].ns, _span(one, "active")) for one in outcomes)
    return (
        validity.throttled(before, after, drift, limit)
        or next(filter(None, jumps), "")
        or validity.unsteady(spread, between, drift)
    )


def _span(outcome: Outcome, name: str) -> tuple[int, int]:
    """Begin and end of a phase on the device's clock; of no length if there was none."""
    phases = [phase for phase in outcome.phases if phase.name == name] or [Phase(name, 0, 0)]
    return phases[0].start_ns, phases[-1].end_ns


def _recording(outcome: Outcome) -> Recording:
    runs = outcome.models[0].runs
    return Recording(
        idle=_span(outcome, "idle"),
        active=_span(outcome, "active"),
        series=tuple(Series(one.times_ns, one.values, one.lost_ns) for one in outcome.readings),
        starts_ns=run_starts((one.start_ns, one.ns) for one in runs),
        runs_ns=outcome.models[0].ns,
        offset_ns=outcome.offset_ns,
    )


def _machine(held: DeviceSession) -> dict[str, Any]:
    """What the device is, without its sensors."""
    return {name: value for name, value in dataclasses.asdict(held.description).items() if name != "sensors"}
