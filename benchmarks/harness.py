"""Whether the agent's figures can be trusted.

python -m benchmarks.harness [--quick] [--only PART] [--json FILE]

1. Its median run time against what others measure for the same file with one thread. Both run at once on the same core:
1. Its median run time against what others measure for the same file, one thread each. Both run at once on one core:
   the other. A ratio is the agent's time over the other's, the geometric mean of all rounds with its 95 % interval by
   Student's t. `their own` is what a call takes in the other tool and not in the agent, as a model that does nothing
   shows it. The second ratio is without it, and marked with `!` where its interval does not lie within 3 % of one.
2. `edgekd bench --against` of a file and its copy: how often the interval holds 1.
3. The same of a network that a few layers more make 5 % slower: how often that is seen.
4. The median on the emulated board that counts instructions, from boot to boot.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.surroundings import surroundings
from benchmarks.untrained import DS_CNN, LARGE, MOBILENET, NOTHING, RESNET, files_of, with_more_layers
from edgekd.bench.interleaved import Comparison, Ratio, compare
from edgekd.bench.statistics import mean_with_interval
from edgekd.device import load_device
from edgekd.runners import host
from edgekd.runners.job import Job
from edgekd.runners.session import DeviceSession, ModelFiles, session
from edgekd.runtimes import runtime_for
from edgekd.seeding import deterministic
from edgekd.target import Format

RESULTS = Path(__file__).parent / "results" / "harness.json"
PACKAGES = ("ai-edge-litert", "onnxruntime", "openvino", "ziglang", "numpy", "torch")
OTHERS: dict[Format, dict[str, tuple[str, ...]]] = {
    "tflite": {"litert-benchmark": ("litert_benchmark",), "Interpreter.invoke": ("litert_interpreter",)},
    "onnx": {"InferenceSession.run": ("onnxruntime",), "run_with_iobinding": ("onnxruntime", "bound")},
    "openvino": {"benchmark_app": ("openvino_benchmark_app",)},
}
"""What takes the time of a file, by its module in `benchmarks.loops` and more arguments."""
WITHIN = 0.03
BOARD = "emulated-board-icount"
NETWORKS = (NOTHING, DS_CNN, RESNET, MOBILENET, LARGE)
SLOWER = 0.05
TOLERATED = 0.01
LAYERS = 40


@dataclass(frozen=True)
class Effort:
    """rounds, seconds: beside others, seconds of each tool; alike, slower: comparisons; boots: of the board."""

    rounds: int
    seconds: float
    alike: int
    slower: int
    boots: int


FULL = Effort(rounds=8, seconds=0.7, alike=20, slower=10, boots=5)
QUICK = Effort(rounds=2, seconds=0.05, alike=1, slower=1, boots=0)


@dataclass(frozen=True)
class Row:
    """A file's run time by the agent and by another, and what of the other's is its own. All in microseconds."""

    network: str
    format: str
    other: str
    agent_us: float
    other_us: float
    own_us: float
    ratio: Ratio
    without_own: Ratio

    @property
    def within(self) -> bool:
        return max(abs(self.without_own.low - 1), abs(self.without_own.high - 1)) <= WITHIN


@contextlib.contextmanager
def on_one_core() -> Iterator[None]:
    """This process and those that it starts stay on one core, and take real-time turns there.

    Raises SystemExit without the right to that.
    """
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        raise SystemExit("real-time scheduling is not allowed here; run as root or with CAP_SYS_NICE") from None
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(0, cores)


def side_by_side(held: DeviceSession, file: Path, other: Sequence[str], effort: Effort) -> np.ndarray:
    """Median run times in ns by the agent and by a module of `benchmarks.loops`, shape (2, rounds)."""
    runs = max(64, round(effort.seconds * 1e9 / _agent_ns(held, file, 64)))
    module, *more = other
    command = [sys.executable, "-m", f"benchmarks.loops.{module}", str(file), str(runs), *more]
    found = []
    for _ in range(effort.rounds):
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            while process.stdout.readline() != "ready\n":
                pass
            process.stdin.write("go\n")
            process.stdin.flush()
            agent_ns = _agent_ns(held, file, runs)
            told = process.communicate()[0]
        found.append((agent_ns, float(told.splitlines()[-1])))
    return np.array(found).T


def _agent_ns(held: DeviceSession, file: Path, runs: int) -> float:
    job = Job(warmup_runs=max(1, runs // 2), warmup_seconds=0.0, runs=runs)
    return float(np.median(held.run(job, [ModelFiles(runtime_for(file), file)]).models[0].ns))


def against_others(files: dict[str, dict[Format, Path]], effort: Effort) -> list[Row]:
    """Every network but `nothing`, in every format, by every tool."""
    taken = {}
    with session(load_device("local")) as held, on_one_core():
        for network, formats in files.items():
            for kind, file in formats.items():
                for name, other in OTHERS[kind].items():
                    print(f"measuring {network} as {kind} beside {name}", file=sys.stderr)
                    taken[network, kind, name] = side_by_side(held, file, other, effort)
    rows = []
    for (network, kind, name), (agent_ns, other_ns) in taken.items():
        if network == NOTHING:
            continue
        idle_agent, idle_other = np.median(taken[NOTHING, kind, name], axis=1)
        own = idle_other - idle_agent
        middles = (float(np.median(values)) / 1e3 for values in (agent_ns, other_ns, own))
        rows.append(Row(network, kind, name, *middles, ratio(agent_ns, other_ns), ratio(agent_ns, other_ns - own)))
    return rows


def ratio(one: np.ndarray, other: np.ndarray) -> Ratio:
    """Of times of the same rounds."""
    return Ratio(*map(math.exp, mean_with_interval(np.log(one / other))))


def alike(file: Path, folder: Path, effort: Effort) -> list[Comparison]:
    """A file against its copy, as often as asked."""
    copy = folder / f"copy{file.suffix}"
    shutil.copy(file, copy)
    return [compare(file, copy) for _ in range(effort.alike)]


def made_slower(file: Path, folder: Path) -> tuple[Path, Comparison]:
    """The ResNet-8 with as many layers more as make it 5 % slower, give or take 1 %, by a long measurement."""
    layers, tried = LAYERS, set[int]()
    while layers not in tried:
        tried.add(layers)
        slower = with_more_layers(layers, folder / f"layers{layers}")
        found = compare(slower, file, processes=16, seconds=2.0)
        share = found.ratio.value - 1
        print(f"{layers} layers make it {100 * share:.2f} % slower", file=sys.stderr)
        if abs(share - SLOWER) <= TOLERATED:
            return slower, found
        layers = max(1, round(layers * SLOWER / max(share, 0.01)))
    raise SystemExit(f"no number of layers makes the network {SLOWER:.0%} slower here; tried: {sorted(tried)}")


def over_boots(file: Path, effort: Effort) -> list[float]:
    """The median run time in milliseconds on the emulated board, once a boot."""
    found = []
    for _ in range(effort.boots):
        with session(load_device(BOARD)) as held:
            found.append(_agent_ns(held, file, 256) / 1e6)
    return found


def _text(ratio: Ratio) -> str:
    return f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


def table(rows: Sequence[Row]) -> str:
    lines = [("", "network", "format", "against", "agent us", "other us", "their own us", "ratio", "without")]
    for row in rows:
        lines.append(
            (
                "" if row.within else "!",
                row.network,
                row.format,
                row.other,
                *(f"{number:.2f}" for number in (row.agent_us, row.other_us, row.own_us)),
                _text(row.ratio),
                _text(row.without_own),
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in padded)


@dataclass(frozen=True)
class Place:
    """Where files are made, each network once, and how long is measured."""

    folder: Path
    effort: Effort
    made: dict[str, dict[Format, Path]] = dataclasses.field(default_factory=dict)

    def files(self, network: str) -> dict[Format, Path]:
        if network not in self.made:
            print(f"making {network}", file=sys.stderr)
            self.made[network] = files_of(network, self.folder / str(len(self.made)))
        return self.made[network]


def _others(place: Place) -> Any:
    networks = NETWORKS[:3] if place.effort == QUICK else NETWORKS
    rows = against_others({name: place.files(name) for name in networks}, place.effort)
    print(table(rows))
    return [{**dataclasses.asdict(row), "within": row.within} for row in rows]


def _alike(place: Place) -> Any:
    found = {}
    for name in (DS_CNN, RESNET):
        print(f"measuring {name} against itself", file=sys.stderr)
        same = alike(place.files(name)["tflite"], place.folder, place.effort)
        held = sum(one.ratio.low <= 1 <= one.ratio.high for one in same)
        print(f"{name} against its copy: the interval holds 1 in {held} of {len(same)}")
        found[name] = [dataclasses.asdict(one) for one in same]
    return found


def _slower(place: Place) -> Any:
    file = place.files(RESNET)["tflite"]
    slower, truth = made_slower(file, place.folder)
    found = [compare(slower, file) for _ in range(place.effort.slower)]
    seen = sum(one.ratio.low > 1 for one in found)
    print(f"made slower, {_text(truth.ratio)} of its time: seen in {seen} of {len(found)}")
    return {"truth": dataclasses.asdict(truth), "found": [dataclasses.asdict(one) for one in found]}


def _boots(place: Place) -> Any:
    found = over_boots(place.files(DS_CNN)["tflite"], place.effort)
    if found:
        print(f"board: {min(found):.6f} to {max(found):.6f} ms in {len(found)} boots")
    return found


PARTS = {"others": _others, "alike": _alike, "slower": _slower, "board_ms": _boots}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few short turns and comparisons, and no board")
    parser.add_argument("--only", choices=PARTS, action="append", help="one of the parts; the others stay in the file")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE")
    arguments = parser.parse_args()
    effort = QUICK if arguments.quick else FULL
    deterministic(0)
    document = json.loads(arguments.json.read_text()) if arguments.only and arguments.json.is_file() else {}
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        place = Place(Path(folder), effort)
        for name in arguments.only or PARTS:
            before = host.state()
            found = PARTS[name](place)
            document[name] = {
                "found": found,
                "effort": dataclasses.asdict(effort),
                **surroundings(PACKAGES, before),
            }
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
