"""edgekd's int8 files against those of other tools, for the same students in the same runtimes.

python -m benchmarks.export [--quick] [--json FILE] [--data-audio FOLDER] [--data-text FOLDER]

A time ratio is edgekd's time over the other's, both run in turns in one process (`edgekd.bench.interleaved`), with its
95 % interval: below 1, edgekd's file is faster. A row is marked with `!` where edgekd's file is more than 3 % slower
with its whole interval, or more than 5 % larger. "as float" is the share of test inputs with the float model's answer.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.alternatives import ai_edge_quantizer, nncf, onnxruntime, tensorflow
from benchmarks.output import in_columns
from benchmarks.students import Student, students
from benchmarks.surroundings import surroundings
from edgekd.bench.interleaved import Comparison, compare
from edgekd.compress import quantize
from edgekd.export.formats import export_float, export_program
from edgekd.models.evaluate import predict
from edgekd.readers import read_graph
from edgekd.runners import host
from edgekd.runtimes import open_session, runtime_for
from edgekd.seeding import deterministic
from edgekd.target import Format
from edgekd.tasks.metrics import score
from edgekd.verify.readback import read_back

RESULTS = Path(__file__).parent / "results" / "export.json"
FORMATS: tuple[Format, ...] = ("tflite", "onnx", "openvino")
PACKAGES = (
    "ai-edge-litert", "ai-edge-quantizer", "litert-torch", "nncf", "onnx", "onnxruntime", "openvino", "tensorflow",
    "torch",
)  # fmt: skip
SLOWER, LARGER = 1.03, 1.05
FLOAT32 = "edgekd float32"


@dataclass(frozen=True)
class Made:
    """A file: who made it, how many learned scales are in it or whose they are, and how it answers.

    accuracy: on the test inputs, None without labels. agreement: with the float model's answers, None where these are
    all the same. Both 0 to 1.
    """

    maker: str
    file: Path
    scales: str
    accuracy: float | None
    agreement: float | None

    @property
    def bytes(self) -> int:
        return sum(part.stat().st_size for part in self.file.parent.glob(f"{self.file.stem}.*"))


@dataclass(frozen=True)
class Pair:
    """What is compared with what."""

    student: Student
    our: Made
    other: Made


def pairs_of(student: Student, folder: Path) -> list[Pair]:
    """Every format of one quantized program, each against the other tools' files and the float32 student."""
    expected = predict(student.model, student.test).argmax(axis=1)
    program = quantize(student.model, student.calibration, student.train)
    others = _others(student, folder)
    pairs = []
    for name in FORMATS:
        file = export_program(program, name, "int8", _place(folder, f"edgekd-{name}"), student.card)
        found = read_back(program.table, read_graph(file))
        our = _judged(student, expected, "edgekd", file, f"{found.exact}/{found.learned}")
        for maker, other in others[name].items():
            scales = "none" if maker == FLOAT32 else "own"
            pairs.append(Pair(student, our, _judged(student, expected, maker, other, scales)))
    return pairs


def _others(student: Student, folder: Path) -> dict[str, dict[str, Path]]:
    """The files that edgekd's are compared with, by format and maker."""
    model, calibration, example = student.model, student.calibration, student.calibration[:1] * 0
    floats = {
        name: export_float(model, example, name, "float32", _place(folder, f"float-{name}"), student.card)
        for name in FORMATS
    }
    places = {name: _place(folder, name) for name in ("tensorflow", "ai-edge-quantizer", "nncf")}
    return {
        "tflite": {
            "TensorFlow": tensorflow.convert(model, calibration, places["tensorflow"] / "model.tflite"),
            "ai-edge-quantizer": ai_edge_quantizer.convert(
                model, calibration, places["ai-edge-quantizer"] / "model.tflite"
            ),
            FLOAT32: floats["tflite"],
        },
        "onnx": {"quantize_static": _faster(floats["onnx"], student, folder), FLOAT32: floats["onnx"]},
        "openvino": {
            "NNCF": nncf.convert(floats["openvino"], calibration, places["nncf"] / "model.xml"),
            FLOAT32: floats["openvino"],
        },
    }


def _faster(float_file: Path, student: Student, folder: Path) -> Path:
    """ONNX Runtime's own file with uint8 or with int8 activations, whichever runs faster here."""
    unsigned, signed = (
        onnxruntime.convert(float_file, student.calibration, _place(folder, kind) / "model.onnx", unsigned=unsigned)
        for kind, unsigned in (("quint8", True), ("qint8", False))
    )
    return unsigned if compare(unsigned, signed, processes=2, seconds=0.3).ratio.value <= 1 else signed


def _judged(student: Student, expected: np.ndarray, maker: str, file: Path, scales: str) -> Made:
    session = open_session(file)
    logits = session.decode(session.run(session.encode(student.test.numpy())))
    accuracy = None if student.labels is None else score(logits, student.labels, "classification")
    agreement = score(logits, expected, "classification") if len(np.unique(expected)) > 1 else None
    return Made(maker, file, scales, accuracy, agreement)


def measured(pair: Pair, quick: bool) -> Comparison:
    """Both files in turns, fed with the same sample."""
    sample = pair.student.test[:1].numpy()
    feeds = [[open_session(made.file).encode(sample)] for made in (pair.our, pair.other)]
    processes = 2 if quick or pair.other.maker == FLOAT32 else 4
    return compare(pair.our.file, pair.other.file, *feeds, processes=processes, seconds=0.3 if quick else 0.8)


def entry(pair: Pair, latency: Comparison) -> dict[str, Any]:
    """A row of the results."""

    def side(made: Made) -> dict[str, Any]:
        return {**dataclasses.asdict(made), "file": made.file.name, "bytes": made.bytes}

    marks = {"slower": latency.ratio.low > SLOWER, "larger": pair.our.bytes > LARGER * pair.other.bytes}
    return {
        "student": pair.student.name,
        "runtime": runtime_for(pair.our.file),
        "edgekd": side(pair.our),
        "other": side(pair.other),
        "latency": dataclasses.asdict(latency),
        "marks": [name for name, marked in marks.items() if marked],
    }


HEADER = (
    "", "student", "runtime", "against", "bytes", "theirs", "ratio", "time ratio (95 % interval)", "ms", "scales",
    "theirs", "right %", "theirs", "as float %", "theirs",
)  # fmt: skip


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    our, other, ratio = row["edgekd"], row["other"], row["latency"]["ratio"]

    def percent(share: float | None) -> str:
        return "-" if share is None else f"{100 * share:.1f}"

    return (
        "!" if row["marks"] else "",
        row["student"],
        row["runtime"],
        other["maker"],
        f"{our['bytes']:,}",
        f"{other['bytes']:,}",
        f"{our['bytes'] / other['bytes']:.2f}",
        f"{ratio['value']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})",
        f"{row['latency']['model_ms']:.4f}",
        our["scales"],
        other["scales"],
        *(percent(share) for name in ("accuracy", "agreement") for share in (our[name], other[name])),
    )


def table(rows: list[dict[str, Any]]) -> str:
    return in_columns([HEADER, *(cells(row) for row in rows)])


def _place(folder: Path, name: str) -> Path:
    place = folder / name
    place.mkdir()
    return place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two students, hardly trained, and short processes")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE")
    parser.add_argument("--data-audio", type=Path, metavar="FOLDER", help="the Free Spoken Digit Dataset's recordings")
    parser.add_argument("--data-text", type=Path, metavar="FOLDER", help="train.tsv and test.tsv of the binary SST")
    arguments = parser.parse_args()
    deterministic(0)
    rows = []
    with tempfile.TemporaryDirectory(prefix="edgekd-") as place:
        pairs = []
        for student in students(arguments.data_audio, arguments.data_text, arguments.quick):
            print(f"making the files of {student.name}", file=sys.stderr)
            pairs += pairs_of(student, _place(Path(place), student.name))
        before = host.state()
        for position, pair in enumerate(pairs):
            print(f"measuring pair {position + 1} of {len(pairs)}", file=sys.stderr)
            rows.append(entry(pair, measured(pair, arguments.quick)))
    print(table(rows))
    document = {
        "quick": arguments.quick,
        "data": {"audio": arguments.data_audio is not None, "text": arguments.data_text is not None},
        "rows": rows,
        **surroundings(PACKAGES, before),
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
