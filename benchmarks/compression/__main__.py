"""What each compression costs in accuracy and what it buys, beside what other tools make of the same float student.

python -m benchmarks.compression --data-audio FOLDER --data-text FOLDER
    [--quick] [--only PART ...] [--cache FOLDER] [--json FILE]

1. Tables, by student: `audio`, `text`, and `hard`, which 4-bit weights harm. Every row starts from the same float
   student, which was distilled; rows with a teacher have its answers beside the labels, in as many steps as those
   without. Accuracy is that of the exported file on the test split, mean ± sd over seeds; bytes and
   multiply-accumulates (MACs) are means. `bare cut` is the accuracy before any recovery. Other tools calibrate on the
   same samples.
2. Latency of the first seed's files: the time of a run over that of the float student's file in the same runtime, both
   in turns (`edgekd.bench.interleaved`), with its 95 % interval: below 1 is faster.

What compression is asked for stands below, with yes or no. Parts that are not asked for stay in the results file as
they are. With --cache, data, teachers, students and files stay in that folder, and a run that was stopped goes on;
empty it when the package has changed.
"""

import argparse
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.compression import plot, subjects, summary
from benchmarks.compression.making import Case, Made, made
from benchmarks.compression.rows import FLOAT, rows
from benchmarks.compression.subjects import Compressed
from benchmarks.distillation.materials import material
from benchmarks.distillation.training import teacher
from benchmarks.output import folder
from benchmarks.surroundings import circumstances
from edgekd.bench.interleaved import compare
from edgekd.runtimes import open_session

RESULTS = Path(__file__).parents[1] / "results" / "compression.json"
PACKAGES = (
    "ai-edge-litert", "ai-edge-quantizer", "litert-torch", "nncf", "onnx", "onnxruntime", "torch", "torch-pruning",
    "torchao",
)  # fmt: skip
TABLES, HARD, LATENCY = ("audio", "text", "hard"), "hard", "latency"
SEEDS, QUICK_SEEDS = 3, 1


def case_of(subject: Compressed, seed: int, cache: Path) -> Case:
    learning = subject.learning
    data = material(learning.task, cache)
    return Case(subject, data, teacher(learning, data, data.labels, 0, cache), seed, cache)


def table_entry(subject: Compressed, cache: Path, quick: bool) -> dict[str, Any]:
    """All rows of a table, from each seed."""
    runs = []
    for seed in range(QUICK_SEEDS if quick else SEEDS):
        case = case_of(subject, seed, cache)
        for row in rows(subject):
            files = made(row, case)
            runs.append(
                {"row": row.name, "seed": seed, "accuracy": files.accuracy, "bytes": files.bytes}
                | {"macs": files.macs, "bare": files.bare}
            )
    learning = subject.learning
    return {
        "title": subject.title,
        "quick": quick,
        "teacher": {"network": learning.teacher, "members": learning.members, "accuracy": case.taught.accuracy},
        "student": {"network": learning.student, "training": learning.training},
        "qat": subject.qat,
        "cutting": subject.cutting,
        "runs": runs,
        **circumstances(PACKAGES),
    }


def latency_entry(measured: Mapping[str, Compressed], cache: Path, quick: bool) -> dict[str, Any]:
    """Every row's files against those of the float student, by table, row and format."""
    times: dict[str, Any] = {}
    for name, subject in measured.items():
        case = case_of(subject, 0, cache)
        whole, *others = [(row.name, made(row, case)) for row in rows(subject)]
        assert whole[0] == FLOAT
        times[name] = {row: _times(files, whole[1], case, quick) for row, files in others}
    return {"quick": quick, "times": times, **circumstances(PACKAGES)}


def _times(files: Made, whole: Made, case: Case, quick: bool) -> dict[str, Any]:
    sample = case.data.test[:1].numpy()
    found = {}
    for name, file in files.files.items():
        pair = (file, whole.files[name])
        feeds = [[open_session(one).encode(sample)] for one in pair]
        found[name] = compare(*pair, *feeds, processes=2 if quick else 4, seconds=0.3 if quick else 0.4)
    return found


def write(file: Path, name: str, entry: dict[str, Any]) -> None:
    """Put one part into the results, draw all tables that are there, and print what was asked for."""
    document = json.loads(file.read_text()) if file.is_file() else {}
    document[name] = entry
    document = json.loads(json.dumps(document, default=dataclasses.asdict))
    times = document.get(LATENCY, {"times": {}})["times"]
    shown = {one: document[one] for one in TABLES if one in document}
    tables = {one: summary.lines(part["runs"], _ratios(times.get(one, {}))) for one, part in shown.items()}
    tolerances = {one: part["cutting"]["tolerance"] for one, part in shown.items() if part["cutting"]}
    found = summary.claims(tables, tolerances, HARD)
    document["claims"] = [dataclasses.asdict(claim) for claim in found]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=1) + "\n")
    for one in shown if name == LATENCY else [name]:
        print(f"\n{shown[one]['title']}\n\n{summary.text(tables[one].values())}")
    print(f"\n{summary.answers(found)}")
    plot.draw({shown[one]["title"]: list(made.values()) for one, made in tables.items()}, file.with_suffix(".svg"))


def _ratios(times: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {row: {name: one["ratio"] for name, one in formats.items()} for row, formats in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-audio", type=Path, metavar="FOLDER", help="the Free Spoken Digit Dataset's recordings")
    parser.add_argument("--data-text", type=Path, metavar="FOLDER", help="train.tsv and test.tsv of the binary SST")
    parser.add_argument("--quick", action="store_true", help="one seed, hardly trained: shows that it runs")
    parser.add_argument("--only", nargs="+", choices=[*TABLES, LATENCY], default=[*TABLES, LATENCY], metavar="PART")
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="where what is done stays for the next run")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE")
    arguments = parser.parse_args()
    recordings, sentences, quick = arguments.data_audio, arguments.data_text, arguments.quick
    found = {} if recordings is None else {"audio": subjects.audio(recordings, quick)}
    found |= {} if sentences is None else {"text": subjects.text(sentences, quick)}
    found |= {} if recordings is None else {HARD: subjects.hard(recordings, quick)}
    if not found:
        parser.error("give the data: --data-audio FOLDER, --data-text FOLDER, or both")
    with folder(arguments.cache) as cache:
        for name, subject in found.items():
            if name in arguments.only:
                write(arguments.json, name, table_entry(subject, cache, quick))
        if LATENCY in arguments.only:
            write(arguments.json, LATENCY, latency_entry(found, cache, quick))


if __name__ == "__main__":
    main()
