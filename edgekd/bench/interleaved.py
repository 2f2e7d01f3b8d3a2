"""How fast one model is against another: both in one process on a device, in turns, as a ratio with its interval."""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekd.bench.measurement import model_files
from edgekd.bench.protocol import WARMUP_RUNS
from edgekd.bench.statistics import mean_with_interval
from edgekd.device import device_label, load_device
from edgekd.runners.events import ModelOutcome
from edgekd.runners.job import Job
from edgekd.runners.session import session
from edgekd.runtimes import runtime_on
from edgekd.step import Progress, silent

WARMUP_SECONDS = 0.2
"""Shorter than the protocol's: what is left of a warm-up is in both models' times alike."""


@dataclass(frozen=True)
class Ratio:
    """A ratio of run times and its 95 % interval; below 1, the first of the two is faster."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Two models on a device. model_ms, against_ms: the median of all runs; runs: of each model, in all."""

    device: str
    timing: str
    ratio: Ratio
    model_ms: float
    against_ms: float
    processes: int
    blocks: int
    runs: int


def ratio(a_ns: np.ndarray, b_ns: np.ndarray) -> Ratio:
    """The run times of a over those of b, both of shape (processes, blocks, runs), blocks of the same place at once.

    Each block gives the ratio of its two medians, so that what slows both down falls out; each process the median of
    its blocks; all processes, at least two, their geometric mean. The interval is that of processes: files and tensors
    lie elsewhere in memory in each, which may matter more than all noise within one.
    """
    logs = np.log(np.median(a_ns, axis=2)) - np.log(np.median(b_ns, axis=2))
    return Ratio(*map(math.exp, mean_with_interval(np.median(logs, axis=1))))


def compare(
    model: Path,
    against: Path,
    inputs: Sequence[np.ndarray] = (),
    against_inputs: Sequence[np.ndarray] = (),
    *,
    device: str = "local",
    runtime: str | None = None,
    processes: int = 6,
    blocks: int = 30,
    seconds: float = 1.0,
    progress: Progress = silent,
) -> Comparison:
    """Measure two models with one thread each, in fresh processes; every other one loads `against` first.

    A block is one model, the other, the other, the one, so that a steady drift within it falls out. inputs: what each
    model is fed, one array an input; the device makes them up if not given. processes: at least two. seconds: of the
    blocks of one process.
    Raises UsageError for a device that is not known, DependencyError for one that is not set up, DeviceError if it
    cannot be reached, or if a runtime refuses its model.
    """
    profile = load_device(device)
    series = []
    with session(profile) as held, tempfile.TemporaryDirectory(prefix="edgekd-") as place:
        files = []
        for name, file, fed in (("model", model, inputs), ("against", against, against_inputs)):
            folder = Path(place) / name
            folder.mkdir()
            files.append(model_files(file, runtime or runtime_on(file, held.architecture), fed, 0, folder))
        for process in range(processes):
            progress(process, processes, f"{seconds:g} s each")
            job = Job(
                warmup_runs=WARMUP_RUNS,
                warmup_seconds=WARMUP_SECONDS,
                blocks=blocks,
                seconds=seconds,
                swapped=process % 2 == 1,
            )
            series.append([_blocks(one) for one in held.run(job, files).models])
    progress(processes, processes)
    shortest = min(block.shape[1] for pair in series for block in pair)
    samples = np.array([[block[:, :shortest] for block in pair] for pair in series]).swapaxes(0, 1)
    middle = np.median(samples, axis=(1, 2, 3)) / 1e6
    return Comparison(
        device_label(device),
        profile.timing,
        ratio(*samples),
        float(middle[0]),
        float(middle[1]),
        processes,
        blocks,
        samples[0].size,
    )


def _blocks(seen: ModelOutcome) -> np.ndarray:
    """Run times of a model, shape (blocks, runs)."""
    return np.stack([one.ns for one in seen.runs])
