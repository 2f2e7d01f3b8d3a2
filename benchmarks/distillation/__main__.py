"""What distillation gains over training alone, and what it costs in time.

python -m benchmarks.distillation --data-audio FOLDER --data-text FOLDER
    [--quick] [--only TABLE ...] [--cache FOLDER] [--json FILE]

1. Tables. Every row of a table is the same student, trained for the same number of steps from the same seeds: alone on
   its labels, and with each objective of the package, the hard loss beside it. `gain` is in points over the student
   alone, the mean over seeds (over speakers where one is left out); `smallest` is that of the worst; p is that of a
   paired two-sided t-test, and "all tests counted" says that it is below 0.05 by Holm's method, too.
   Where the student has a tenth of the labels, its teacher had all of them, but in the label-honest rows, whose
   teacher learned from the student's labels and no more.
2. Throughput on the spoken digits: seconds of one loop over those of another that does the same work, both in turns in
   fresh processes, with the 95 % interval of processes. `!` marks a ratio whose whole interval is above its limit.
   torchdistill is measured if it can be imported (see `torchdistill_box`).

A table without its data is left out. Tables that are not asked for stay in the results file as they are. With --cache,
prepared data, teachers and the figure of every student stay in that folder, and a run that was stopped goes on; empty
it when the package has changed.
"""

import argparse
import dataclasses
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.distillation import plot, summary, throughput
from benchmarks.distillation.loops import LOOPS
from benchmarks.distillation.subjects import Subject, sentiment, spoken_digits
from benchmarks.distillation.tables import AUDIO, TEXT, Table, by_unit, runs
from benchmarks.output import folder
from benchmarks.surroundings import circumstances

RESULTS = Path(__file__).parents[1] / "results" / "distillation.json"
PACKAGES = ("accelerate", "numpy", "scipy", "tokenizers", "torch")
THROUGHPUT = "throughput"
NAMES = [table.name for table in (*AUDIO, *TEXT)] + [THROUGHPUT]
QUICK_SEEDS, QUICK_SPEAKERS = 2, 2


def table_entry(table: Table, subject: Subject, cache: Path, quick: bool) -> dict[str, Any]:
    """All rows of a table, as they are printed and as JSON."""
    started = time.perf_counter()
    seeds = min(table.seeds, QUICK_SEEDS) if quick else table.seeds
    if quick:
        table = dataclasses.replace(table, speakers=table.speakers[:QUICK_SPEAKERS])
    found = list(runs(table, subject, seeds, cache))
    rows = by_unit(found)
    made = summary.lines(rows)
    winner = summary.best(made, list(subject.methods))
    assert winner.gain is not None
    print(f"\n{table.title} ({seeds} seeds)\n\n{summary.text(made)}\n")
    print(f"best method: {winner.row}, {winner.gain.mean:+.2f} points, at least {winner.gain.smallest:+.2f}")
    met = None
    if table.demand is not None:
        met = summary.meets(winner, table.demand)
        asked = (
            f"{table.demand.every:+.1f} on every seed"
            if table.demand.every
            else f"{table.demand.mean:+.1f} in the mean"
        )
        print(f"asked for: {asked}: {'met' if met else 'not met'}")
    return {
        "title": table.title,
        "quick": quick,
        "seeds": seeds,
        "teacher": {"network": subject.teacher, "members": subject.members, "training": subject.teacher_training},
        "student": {"network": subject.student, "training": subject.training},
        "runs": found,
        "lines": [summary.document(line) for line in made],
        "best": winner.row,
        "met": met,
        "seconds": time.perf_counter() - started,
        **circumstances(PACKAGES),
    }


def throughput_entry(recordings: Path, cache: Path, quick: bool) -> dict[str, Any]:
    """All loops and the ratios between them."""
    there = importlib.util.find_spec("torchdistill") is not None
    names = [name for name in LOOPS if there or name != throughput.TORCHDISTILL]
    processes, epochs = (2, 1) if quick else (6, 4)
    times = throughput.measured(recordings, cache, names, processes, epochs)
    print("\nthroughput, samples per second\n")
    for name in names:
        print(f"{name:32} {sum(times.rates[name]) / processes:8.0f}")
    print("\ntime ratio (95 % interval)\n")
    ratios = []
    for pair in throughput.PAIRS:
        if pair.against in names:
            ratio = times.ratio(pair)
            over = pair.limit is not None and ratio.low > pair.limit
            limit = "" if pair.limit is None else f"  at most {pair.limit:.2f}"
            print(
                f"{'!' if over else ' '} {pair.loop:24} / {pair.against:30} "
                f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f}){limit}"
            )
            ratios.append({**dataclasses.asdict(pair), "ratio": ratio, "over": over})
    return {"quick": quick, "epochs": epochs, "rates": times.rates, "ratios": ratios, **circumstances(PACKAGES)}


def write(file: Path, name: str, entry: dict[str, Any]) -> None:
    """Put one table into the results, and draw all that are there."""
    document = json.loads(file.read_text()) if file.is_file() else {}
    document[name] = entry
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=1, default=dataclasses.asdict) + "\n")
    document = json.loads(file.read_text())
    shown = [document[name] for name in NAMES if name in document and name != THROUGHPUT]
    if tables := {entry["title"]: [summary.read(line) for line in entry["lines"]] for entry in shown}:
        plot.draw(tables, file.with_suffix(".svg"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-audio", type=Path, metavar="FOLDER", help="the Free Spoken Digit Dataset's recordings")
    parser.add_argument("--data-text", type=Path, metavar="FOLDER", help="train.tsv and test.tsv of the binary SST")
    parser.add_argument("--quick", action="store_true", help="two seeds, hardly trained: shows that it runs")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="TABLE", help=", ".join(NAMES))
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="where what is done stays for the next run")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE")
    arguments = parser.parse_args()
    audio, sentences = arguments.data_audio, arguments.data_text
    subjects = {} if audio is None else dict.fromkeys(AUDIO, spoken_digits(audio, arguments.quick))
    subjects |= {} if sentences is None else dict.fromkeys(TEXT, sentiment(sentences, arguments.quick))
    if not subjects:
        parser.error("give the data: --data-audio FOLDER, --data-text FOLDER, or both")
    with folder(arguments.cache) as cache:
        for table, subject in subjects.items():
            if table.name in arguments.only:
                write(arguments.json, table.name, table_entry(table, subject, cache, arguments.quick))
        if THROUGHPUT in arguments.only and audio is not None:
            write(arguments.json, THROUGHPUT, throughput_entry(audio, cache, arguments.quick))
        elif THROUGHPUT in arguments.only:
            print("throughput is left out: it needs --data-audio", file=sys.stderr)


if __name__ == "__main__":
    main()
