"""Latency, load time and memory of one model on one device."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.bench.protocol import WARMUP_RUNS, WARMUP_SECONDS, Protocol
from edgekd.bench.statistics import Percentile, percentile, stability
from edgekd.device import load_device
from edgekd.runners import local
from edgekd.runtimes import runtime_for
from edgekd.step import Progress, silent

SPREAD_LIMIT = 0.05
DRIFT_LIMIT = 0.05
ATTEMPTS = 3


@dataclass(frozen=True)
class Measurement:
    """What was seen on a device. Times in milliseconds, memory in bytes.

    timing: measured, emulated or estimated. samples: runs behind the percentiles; p90 is None if they are too few.
    spread, drift: see `edgekd.bench.statistics.Stability`; process_spread: the same between processes, or None.
    peak_memory_bytes: of the whole runtime process up to the end of its warm-up; base_memory_bytes: of the same before
    the model was loaded.
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
    peak_memory_bytes: int
    base_memory_bytes: int
    spread: float
    process_spread: float | None
    drift: float
    valid: bool
    why_not_valid: str
    state_before: dict[str, Any]
    state_after: dict[str, Any]


def measure(
    model: Path,
    device: str,
    protocol: Protocol,
    inputs: list[np.ndarray] | None = None,
    samples_file: Path | None = None,
    progress: Progress = silent,
) -> Measurement:
    """Measure by the protocol with one thread, again (up to three times in all) while the runs are not stable.

    inputs: what the model is fed, one array an input; generated if not given. samples_file: where the raw run times
    are kept: nanoseconds, unsigned, in order, shape (processes, runs) cut to the shortest process.
    A measurement that stays unstable is returned with valid=False and the reason.

    Raises UsageError if `model` is not a model, DeviceError if the runtime refuses it or crashes, or is none that
    this device has.
    """
    profile = load_device(device)
    local.require(runtime_for(model))
    for attempt in range(1, ATTEMPTS + 1):
        before = local.state()
        with tempfile.TemporaryDirectory(prefix="edgekd-") as place:
            job = _job(model, protocol, inputs, Path(place))
            results, series = [], []
            for process in range(protocol.processes):
                progress(process, protocol.processes, f"{protocol.seconds:g} s each, attempt {attempt}")
                results.append(local.run(job, Path(place)))
                series.append(np.load(Path(place) / "samples.npy"))
        every = np.concatenate(series)
        steady = [stability(one) for one in series]
        spread, drift = max(one.spread for one in steady), max((one.drift for one in steady), key=abs)
        medians = np.array([np.median(one) for one in series])
        process_spread = float(medians.std() / np.median(every)) if len(series) > 1 else None
        reason = _why_not_valid(spread, process_spread, drift)
        if not reason or attempt == ATTEMPTS:
            break
    if samples_file is not None:
        shortest = min(len(one) for one in series)
        kept = np.stack([one[:shortest] for one in series])
        with samples_file.open("wb") as stream:
            np.save(stream, kept.astype(np.min_scalar_type(int(kept.max()))))
    progress(protocol.processes, protocol.processes)
    return Measurement(
        device=device,
        timing=profile.timing,
        machine=local.describe(),
        harness=local.harness(runtime_for(model)),
        protocol=protocol.name,
        processes=protocol.processes,
        threads=1,
        attempts=attempt,
        samples=len(every),
        p50_ms=percentile(every, 0.5),
        p90_ms=percentile(every, 0.9),
        load_ms=float(np.median([result["load_ns"] for result in results])) / 1e6,
        peak_memory_bytes=max(result["peak_memory_bytes"] for result in results),
        base_memory_bytes=max(result["base_memory_bytes"] for result in results),
        spread=spread,
        process_spread=process_spread,
        drift=drift,
        valid=not reason,
        why_not_valid=reason,
        state_before=before,
        state_after=local.state(),
    )


def _job(model: Path, protocol: Protocol, inputs: list[np.ndarray] | None, place: Path) -> dict[str, Any]:
    arrays = place / "inputs.npz"
    if inputs is not None:
        np.savez(arrays, *inputs)
    return {
        "model": str(model.resolve()),
        "inputs": None if inputs is None else str(arrays),
        "runs": protocol.runs,
        "seconds": protocol.seconds,
        "warmup_runs": WARMUP_RUNS,
        "warmup_seconds": WARMUP_SECONDS,
        "threads": 1,
    }


def _why_not_valid(spread: float, process_spread: float | None, drift: float) -> str:
    if spread > SPREAD_LIMIT:
        return f"the spread of {spread:.1%} is above {SPREAD_LIMIT:.0%}; other work on this machine disturbs it"
    if process_spread is not None and process_spread > SPREAD_LIMIT:
        return f"the spread between processes of {process_spread:.1%} is above {SPREAD_LIMIT:.0%}"
    if abs(drift) > DRIFT_LIMIT:
        return f"it drifted by {drift:+.1%} from the first to the last quarter; the device throttles or warms up"
    return ""
