"""How fast one model is against another: both in one process, run in turns, as a ratio with its interval.

The process that is measured is `python -m edgekd.bench.interleaved JOB`, where JOB is a JSON file with `model`,
`against`, `inputs` and `against_inputs` (as in `edgekd.bench.harness`), `swapped` (`against` is loaded first and
begins), `blocks`, `seconds` (about, for all blocks), `warmup_runs`, `warmup_seconds` (each), `threads` and `out`, a
folder. It writes `samples.npy` (nanoseconds, uint64, shape (2, blocks, runs), `model` first) and `result.json` there.
"""

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.bench.harness import feed, repeat
from edgekd.bench.protocol import WARMUP_RUNS
from edgekd.bench.statistics import CONFIDENCE, RESAMPLES
from edgekd.errors import EdgekdError
from edgekd.runners import local
from edgekd.runtimes import open_session
from edgekd.step import Progress, silent

WARMUP_SECONDS = 0.2
"""Shorter than the protocol's: what is left of a warm-up is in both models' times alike."""
VISITS = 4
"""Visits in a block: one model, the other, the other, the one. A steady drift within the block falls out."""


@dataclass(frozen=True)
class Ratio:
    """A ratio of run times and its 95 % interval; below 1, the first of the two is faster."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Two models on this machine. model_ms, against_ms: the median of all runs; runs: of each model, in all."""

    ratio: Ratio
    model_ms: float
    against_ms: float
    processes: int
    blocks: int
    runs: int


def ratio(a_ns: np.ndarray, b_ns: np.ndarray) -> Ratio:
    """The run times of a over those of b, both of shape (processes, blocks, runs), blocks of the same place at once.

    Each block gives the ratio of its two medians, so that what slows both down falls out; each process the median of
    its blocks; all processes their geometric mean. The interval comes from a bootstrap that draws processes, and blocks
    within each: files lie elsewhere in memory in each process, which may matter more than all noise within one. From
    fewer than six processes that differ it comes out too narrow.
    """
    logs = np.log(np.median(a_ns, axis=2)) - np.log(np.median(b_ns, axis=2))
    processes, blocks = logs.shape
    random = np.random.default_rng(0)
    drawn = random.integers(processes, size=(RESAMPLES, processes, 1))
    within = random.integers(blocks, size=(RESAMPLES, processes, blocks))
    means = np.median(logs[drawn, within], axis=2).mean(axis=1)
    value = float(np.median(logs, axis=1).mean())
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Ratio(*(float(np.exp(number)) for number in (value, min(low, value), max(high, value))))


def compare(
    model: Path,
    against: Path,
    inputs: list[np.ndarray] | None = None,
    against_inputs: list[np.ndarray] | None = None,
    *,
    processes: int = 6,
    blocks: int = 30,
    seconds: float = 1.0,
    progress: Progress = silent,
) -> Comparison:
    """Measure two models with one thread each, in fresh processes; every other one loads `against` first.

    inputs: what each model is fed, one array an input; generated if not given. seconds: of the blocks of one process.
    Raises UsageError if one of the two is not a model, DeviceError if its runtime refuses it or crashes.
    """
    series = []
    for process in range(processes):
        progress(process, processes, f"{seconds:g} s each")
        with tempfile.TemporaryDirectory(prefix="edgekd-") as place:
            job = {
                "model": str(model.resolve()),
                "against": str(against.resolve()),
                "inputs": _written(inputs, Path(place) / "inputs.npz"),
                "against_inputs": _written(against_inputs, Path(place) / "against_inputs.npz"),
                "swapped": process % 2 == 1,
                "blocks": blocks,
                "seconds": seconds,
                "warmup_runs": WARMUP_RUNS,
                "warmup_seconds": WARMUP_SECONDS,
                "threads": 1,
            }
            local.run(job, Path(place), "edgekd.bench.interleaved")
            series.append(np.load(Path(place) / "samples.npy"))
    progress(processes, processes)
    shortest = min(one.shape[2] for one in series)
    samples = np.stack([one[:, :, :shortest] for one in series], axis=1)
    middle = np.median(samples, axis=(1, 2, 3)) / 1e6
    return Comparison(ratio(*samples), float(middle[0]), float(middle[1]), processes, blocks, samples[0].size)


def measure(job: dict[str, Any]) -> dict[str, Any]:
    pair = [("model", "inputs"), ("against", "against_inputs")]
    sessions = []
    for model, inputs in reversed(pair) if job["swapped"] else pair:
        sessions.append(open_session(Path(job[model]), job["threads"]))
        feed(sessions[-1], job[inputs])
    warm = [repeat(session, job["warmup_runs"], job["warmup_seconds"]) for session in sessions]
    slowest = max(float(np.median(np.frombuffer(one, dtype=np.uint64))) for one in warm)
    runs = max(1, round(job["seconds"] * 1e9 / (VISITS * job["blocks"]) / slowest))
    samples = np.zeros((2, job["blocks"], 2 * runs), dtype=np.uint64)
    for block in range(job["blocks"]):
        first, second, third, fourth = (repeat(sessions[turn], runs, 0.0) for turn in (0, 1, 1, 0))
        samples[0, block] = first + fourth
        samples[1, block] = second + third
    np.save(Path(job["out"]) / "samples.npy", samples[::-1] if job["swapped"] else samples)
    return {}


def _written(inputs: list[np.ndarray] | None, file: Path) -> str | None:
    if inputs is None:
        return None
    np.savez(file, *inputs)
    return str(file)


if __name__ == "__main__":
    order = json.loads(Path(sys.argv[1]).read_text())
    try:
        outcome = measure(order)
    except EdgekdError as error:
        outcome = {"error": str(error), "exit_code": error.exit_code}
    (Path(order["out"]) / "result.json").write_text(json.dumps(outcome))
