"""How long our trainer takes against other loops that do the same work, in turns, as ratios."""

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekd.bench.interleaved import Ratio
from edgekd.bench.statistics import mean_with_interval

TORCHDISTILL = "torchdistill, online teacher"


@dataclass(frozen=True)
class Pair:
    """Whose time is divided by whose, and how large the ratio may be."""

    loop: str
    against: str
    limit: float | None = None


PAIRS = (
    Pair("edgekd, cached outputs", "edgekd, no teacher", 1.10),
    Pair("edgekd, cached outputs", "hand-written, no teacher", 1.10),
    Pair("edgekd, cached outputs", "hand-written, cached outputs"),
    Pair("edgekd, no teacher", "hand-written, no teacher"),
    Pair("edgekd, online teacher", "hand-written, online teacher", 1.03),
    Pair("edgekd, online teacher", TORCHDISTILL, 1.03),
    Pair("edgekd, online teacher", "edgekd, cached outputs"),
)


@dataclass(frozen=True)
class Times:
    """Samples per second of each loop in each process, (processes,), both turns together."""

    rates: dict[str, list[float]]

    def ratio(self, pair: Pair) -> Ratio:
        """Time of the one over that of the other; the interval is that of processes."""
        logs = np.log(self.rates[pair.against]) - np.log(self.rates[pair.loop])
        return Ratio(*map(math.exp, mean_with_interval(logs)))


def measured(recordings: Path, cache: Path, names: Sequence[str], processes: int, epochs: int) -> Times:
    """Fresh processes, at least two, each with all loops in turn and back; every other one begins at the other end."""
    rates: dict[str, list[float]] = {name: [] for name in names}
    for process in range(processes):
        print(f"throughput: process {process + 1} of {processes}", file=sys.stderr)
        order = list(names) if process % 2 == 0 else list(reversed(names))
        command = [sys.executable, "-m", "benchmarks.distillation.loops", str(recordings), str(cache), str(epochs)]
        found = json.loads(subprocess.run([*command, *order], check=True, stdout=subprocess.PIPE, text=True).stdout)
        for name, seconds in found["seconds"].items():
            rates[name].append(found["samples"] * len(seconds) / sum(seconds))
    return Times(rates)
