"""What the tables say: means over seeds, and whether what is asked for holds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.compression.rows import FLOAT, HALF_INT8, PTQ, PTQ_4, QAT, QAT_4, TAUGHT_QAT, TAUGHT_QAT_4
from benchmarks.distillation.summary import NOISE, p_of
from benchmarks.output import in_columns

FORMATS = {"tflite": "TFLite", "onnx": "ONNX"}
LOSS, WON_BACK = 2.0, 0.75
TRAINED = ((QAT, PTQ), (TAUGHT_QAT, PTQ), (QAT_4, PTQ_4), (TAUGHT_QAT_4, PTQ_4))
"""What is trained with quantizers, and the same without training."""


@dataclass(frozen=True)
class Line:
    """A row: accuracy of its files in points, shape (seeds,), and mean bytes, by format; mean multiply-accumulates.

    bare: mean points after the last cut without recovery. times: of a run, over that of the float student's file of the
    same format, with its interval.
    """

    row: str
    accuracy: Mapping[str, np.ndarray]
    bytes: Mapping[str, float]
    macs: float
    bare: float | None
    times: Mapping[str, Mapping[str, float]]

    def mean(self, name: str = "tflite") -> float:
        return float(self.accuracy[name].mean())


@dataclass(frozen=True)
class Claim:
    """What is asked for, whether it holds, and the figures that say so."""

    words: str
    holds: bool
    figures: str


def lines(runs: Iterable[Mapping[str, Any]], times: Mapping[str, Mapping[str, Any]]) -> dict[str, Line]:
    """Rows by name, from their runs: each a row, a seed, and what `making.Made` says; and from the ratios by row."""
    by_row: dict[str, list[Mapping[str, Any]]] = {}
    for run in sorted(runs, key=lambda run: run["seed"]):
        by_row.setdefault(run["row"], []).append(run)
    made = {}
    for row, own in by_row.items():
        formats = list(own[0]["accuracy"])
        bare = [100 * run["bare"] for run in own if run["bare"] is not None]
        made[row] = Line(
            row,
            {name: np.array([100 * run["accuracy"][name] for run in own]) for name in formats},
            {name: float(np.mean([run["bytes"][name] for run in own])) for name in formats},
            float(np.mean([run["macs"] for run in own])),
            float(np.mean(bare)) if bare else None,
            times.get(row, {}),
        )
    return made


def claims(tables: Mapping[str, Mapping[str, Line]], tolerances: Mapping[str, float], hard: str) -> list[Claim]:
    """By table: half the multiply-accumulates in int8 where there is a tolerance in points, and QAT against PTQ.

    hard: the table of the student that PTQ with 4-bit weights is to harm.
    """
    found = [_half(name, tables[name], tolerance) for name, tolerance in tolerances.items()]
    found += [_not_worse(name, made, *pair) for name, made in tables.items() for pair in TRAINED]
    return [*found, _won_back(hard, tables[hard])] if hard in tables else found


def _half(name: str, made: Mapping[str, Line], tolerance: float) -> Claim:
    whole, half = made[FLOAT], made[HALF_INT8]
    worst = max(whole.mean(one) - half.mean(one) for one in FORMATS)
    smaller = all(half.bytes[one] < whole.bytes[one] for one in FORMATS)
    return Claim(
        f"{name}: half the MACs, then int8: at most {tolerance:g} points below the float student, and smaller files",
        worst <= tolerance and smaller,
        ", ".join(
            f"{words} {half.mean(one):.2f} against {whole.mean(one):.2f}, "
            f"{half.bytes[one]:,.0f} against {whole.bytes[one]:,.0f} bytes"
            for one, words in FORMATS.items()
        ),
    )


def _not_worse(name: str, made: Mapping[str, Line], row: str, untrained: str) -> Claim:
    gains = {one: made[row].mean(one) - made[untrained].mean(one) for one in FORMATS}
    noise = {one: p_of(made[row].accuracy[one], made[untrained].accuracy[one]) for one in FORMATS}
    return Claim(
        f"{name}: {row} is not worse than {untrained} beyond noise",
        all(gains[one] >= 0 or noise[one] >= NOISE for one in FORMATS),
        ", ".join(f"{words} {gains[one]:+.2f} points, p {noise[one]:.3f}" for one, words in FORMATS.items()),
    )


def _won_back(name: str, made: Mapping[str, Line]) -> Claim:
    whole, ptq, qat = (made[row].mean() for row in (FLOAT, PTQ_4, TAUGHT_QAT_4))
    return Claim(
        f"{name}: where PTQ loses more than {LOSS:g} points, with 4-bit weights, {TAUGHT_QAT} wins back three quarters",
        whole - ptq > LOSS and qat - ptq >= WON_BACK * (whole - ptq),
        f"TFLite: float {whole:.2f}, {PTQ_4} {ptq:.2f}, {TAUGHT_QAT_4} {qat:.2f}",
    )


HEADER = (
    "", "TFLite %", "ONNX %", "bare cut %", "bytes, TFLite", "ONNX", "MACs", "time ratio, TFLite", "ONNX Runtime",
)  # fmt: skip


def text(made: Iterable[Line]) -> str:
    """The rows in columns."""
    return in_columns([HEADER, *(_cells(line) for line in made)])


def _cells(line: Line) -> tuple[str, ...]:
    return (
        line.row,
        *(_spread(line.accuracy.get(name)) for name in FORMATS),
        "-" if line.bare is None else f"{line.bare:.2f}",
        *(f"{line.bytes[name]:,.0f}" if name in line.bytes else "-" for name in FORMATS),
        f"{line.macs:,.0f}",
        *(_ratio(line.times.get(name)) for name in FORMATS),
    )


def _spread(values: np.ndarray | None) -> str:
    if values is None:
        return "-"
    return f"{values.mean():.2f}" + (f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else "")


def _ratio(ratio: Mapping[str, float] | None) -> str:
    return "-" if ratio is None else f"{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def answers(found: Sequence[Claim]) -> str:
    return in_columns([("yes" if claim.holds else "no", claim.words, claim.figures) for claim in found])
