"""Percentiles with intervals, and whether a series of runs is stable enough to be quoted."""

import math
from dataclasses import dataclass

import numpy as np

BLOCKS = 50
RESAMPLES = 2000
BINS = 4096
CONFIDENCE = 0.95
ANGLES = 4096
WINDOWS = 10
SAMPLES_BEYOND = 10
"""A percentile is quoted only if at least this many samples lie beyond it."""


@dataclass(frozen=True)
class Percentile:
    """A percentile in milliseconds and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Stability:
    """spread: standard deviation of the medians of ten consecutive windows, over the median of all.
    drift: median of the last quarter over that of the first, less one.
    """

    spread: float
    drift: float


def percentile(samples: np.ndarray, share: float) -> Percentile | None:
    """The percentile of run times in nanoseconds, shape (N,) in the order they were taken; None if N is too small.

    The interval comes from a block bootstrap (Künsch 1989, with the blocks of a fixed partition): runs near in time
    are alike, and resampling single runs would make the interval too narrow.
    """
    if round(len(samples) * (1.0 - share), 6) < SAMPLES_BEYOND:
        return None
    ordered = np.sort(samples)
    levels = np.unique(ordered[np.linspace(0, len(ordered) - 1, min(BINS, len(ordered))).round().astype(int)])
    counts = np.stack([np.bincount(np.searchsorted(levels, block), minlength=len(levels)) for block in blocks(samples)])
    random = np.random.default_rng(0)
    drawn = random.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=RESAMPLES)
    cumulative = np.cumsum(drawn @ counts, axis=1)
    positions = (cumulative >= share * cumulative[:, -1:]).argmax(axis=1)
    low, high = np.quantile(levels[positions], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    value = float(np.quantile(samples, share))
    return Percentile(value / 1e6, min(float(low), value) / 1e6, max(float(high), value) / 1e6)


def mean_with_interval(values: np.ndarray) -> tuple[float, float, float]:
    """The mean of independent values, shape (N,), N at least 2, and its 95 % interval by Student's t.

    A bootstrap of so few values would draw the same ones again and again, and come out too narrow.
    """
    mean, freedom = float(values.mean()), len(values) - 1
    reach = _student(freedom) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return mean, mean - reach, mean + reach


def _student(freedom: int) -> float:
    """What Student's t stays within, either way, in 95 % of cases: it is an angle's tangent with a simple density."""
    angles = np.linspace(0.0, math.pi / 2, ANGLES)
    density = np.cos(angles) ** (freedom - 1)
    share = np.cumsum(density[:-1] + density[1:])
    return math.sqrt(freedom) * math.tan(float(np.interp(CONFIDENCE * share[-1], share, angles[1:])))


def blocks(samples: np.ndarray) -> list[np.ndarray]:
    """Consecutive blocks of about equal length: at most BLOCKS, and about the root of N for short series."""
    return np.array_split(samples, min(BLOCKS, max(2, int(np.sqrt(len(samples))))))


def stability(samples: np.ndarray) -> Stability:
    """How steady the runs were, from their order in time; infinitely unsteady if they are fewer than the windows."""
    if len(samples) < WINDOWS:
        return Stability(math.inf, math.inf)
    medians = np.array([np.median(window) for window in np.array_split(samples, WINDOWS)])
    quarters = np.array_split(samples, 4)
    return Stability(
        spread=float(medians.std() / np.median(samples)),
        drift=float(np.median(quarters[-1]) / np.median(quarters[0]) - 1.0),
    )
