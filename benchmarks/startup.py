"""How long the command line takes to answer, against importing the libraries that it is made with.

python -m benchmarks.startup [--quick] [--json FILE]
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results" / "startup.json"
COMMANDS = {
    "import typer, rich": [sys.executable, "-c", "import typer, rich"],
    "edgekd --help": [sys.executable, "-m", "edgekd", "--help"],
    "edgekd targets": [sys.executable, "-m", "edgekd", "targets"],
}
BASE = "import typer, rich"


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def ratio(times: np.ndarray, base: np.ndarray) -> tuple[float, float, float]:
    """The median of the ratios pair by pair, with its 95 % bootstrap interval."""
    pairs = times / base
    random = np.random.default_rng(0)
    medians = np.median(random.choice(pairs, (2000, len(pairs))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(np.median(pairs)), float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="5 rounds instead of 25")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE")
    arguments = parser.parse_args()
    rounds = 5 if arguments.quick else 25
    for command in COMMANDS.values():
        seconds(command)
    taken = [{name: seconds(command) for name, command in COMMANDS.items()} for _ in range(rounds)]
    times = {name: np.array([entry[name] for entry in taken]) for name in COMMANDS}
    table = {}
    for name, values in times.items():
        middle, low, high = ratio(values, times[BASE])
        table[name] = {"median_s": float(np.median(values)), "ratio": middle, "low": low, "high": high}
        print(f"{name:22} {np.median(values):7.3f} s   {middle:5.2f}x ({low:.2f} to {high:.2f})")
    document = {
        "rounds": rounds,
        "table": table,
        "versions": {"python": platform.python_version(), "typer": version("typer"), "rich": version("rich")},
        "machine": {"system": platform.platform(), "processor": platform.machine()},
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
