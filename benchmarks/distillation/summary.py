"""What a table says: means, gains, and whether they are more than noise."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import ttest_rel

from benchmarks.distillation.tables import ALONE, HONEST, TEACHER, Demand
from benchmarks.output import in_columns

NOISE = 0.05


@dataclass(frozen=True)
class Gain:
    """Points over the student alone, unit by unit: mean, smallest, and the p of a paired two-sided t-test.

    p_of_all: p by Holm's way of counting all tests of the table, for who looks at the best row only.
    """

    mean: float
    smallest: float
    p: float
    p_of_all: float

    @property
    def mark(self) -> str:
        if self.p >= NOISE:
            return "within noise"
        direction = "beyond noise" if self.mean > 0 else "worse, beyond noise"
        return direction + (", all tests counted" if self.p_of_all < NOISE else "")


@dataclass(frozen=True)
class Line:
    """A row: its accuracies in points by unit, their mean and standard deviation; no gain for teachers and `alone`."""

    row: str
    units: Mapping[str, float]
    mean: float
    sd: float | None
    gain: Gain | None


def document(line: Line) -> dict[str, Any]:
    """A row as JSON, with its mark in words."""
    return {**dataclasses.asdict(line), "mark": line.gain.mark if line.gain else None}


def read(entry: Mapping[str, Any]) -> Line:
    """What `document` made."""
    gain = entry["gain"]
    return Line(entry["row"], entry["units"], entry["mean"], entry["sd"], Gain(**gain) if gain else None)


def lines(rows: Mapping[str, Mapping[str, float]]) -> list[Line]:
    """Rows, from accuracies in points by row and unit."""
    students = [row for row in rows if row not in (TEACHER, HONEST, ALONE)]
    pairs = {row: _pairs(rows[row], rows[ALONE]) for row in students}
    tests = dict(zip(students, (p_of(*pair) for pair in pairs.values()), strict=True))
    of_all = dict(zip(students, holm(list(tests.values())), strict=True))
    made = []
    for row, units in rows.items():
        values = np.array(list(units.values()))
        gain = None
        if row in tests:
            differences = pairs[row][0] - pairs[row][1]
            gain = Gain(float(differences.mean()), float(differences.min()), tests[row], of_all[row])
        sd = float(values.std(ddof=1)) if len(values) > 1 else None
        made.append(Line(row, units, float(values.mean()), sd, gain))
    return made


def _pairs(row: Mapping[str, float], other: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([row[unit] for unit in other]), np.array(list(other.values()))


def p_of(values: np.ndarray, others: np.ndarray) -> float:
    """That of a paired two-sided t-test; 1 where there is nothing to test: a single pair, or no difference in any."""
    if len(values) < 2 or (values == others).all():
        return 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # differences that are all the same have p = 0
        return float(ttest_rel(values, others).pvalue)


def holm(ps: Sequence[float]) -> list[float]:
    """p values that hold although so many tests were made (Holm 1979)."""
    order = np.argsort(ps)
    scaled = np.array(ps)[order] * (len(ps) - np.arange(len(ps)))
    adjusted = np.empty(len(ps))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(p) for p in adjusted]


def best(made: Sequence[Line], among: Sequence[str]) -> Line:
    """The row of the highest mean among some. It was chosen by the figures that are shown."""
    return max((line for line in made if line.row in among), key=lambda line: line.mean)


def meets(line: Line, demand: Demand) -> bool:
    gain = line.gain
    assert gain is not None
    every = demand.every is None or gain.smallest >= demand.every
    mean = demand.mean is None or (gain.mean >= demand.mean and gain.p < NOISE)
    return every and mean


HEADER = ("", "accuracy %", "gain", "smallest", "p", "")


def text(made: Sequence[Line]) -> str:
    """The rows in columns."""
    return in_columns([HEADER, *(_cells(line) for line in made)])


def _cells(line: Line) -> tuple[str, ...]:
    accuracy = f"{line.mean:.2f}" + ("" if line.sd is None else f" ± {line.sd:.2f}")
    if line.gain is None:
        return (line.row, accuracy, "", "", "", "")
    gain = line.gain
    return (line.row, accuracy, f"{gain.mean:+.2f}", f"{gain.smallest:+.2f}", f"{gain.p:.4f}", gain.mark)
