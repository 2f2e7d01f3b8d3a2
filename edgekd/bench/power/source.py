"""What every power source is: which paths are sampled, and how their readings become watts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Series:
    """What was read from one path. times_ns (of the device's monotonic clock), values: int64, shape (N,), in order.

    lost_ns: when the path could not be read any more, or None.
    """

    times_ns: np.ndarray
    values: np.ndarray
    lost_ns: int | None = None


@dataclass(frozen=True)
class Power:
    """Power over time. times_ns: int64, ascending, shape (N,); watts: float64, shape (N,); linear in between.

    A level that is known for a stretch of time stands at both its ends, so that one time may be there twice.
    """

    times_ns: np.ndarray
    watts: np.ndarray


@dataclass(frozen=True)
class Source:
    """A power source. what: the sensor in words; paths: what the agent has to sample, in this order.

    watts: the series of these paths, and the wall clock less the device's clock in nanoseconds, as power. It raises
    UsageError for a meter's file that cannot be read.
    """

    name: str
    what: str
    paths: tuple[str, ...]
    watts: Callable[[Sequence[Series], int], Power]


@dataclass(frozen=True)
class NoSource:
    """There is nothing to read power from, and why."""

    why: str


def product(one: Series, other: Series) -> tuple[np.ndarray, np.ndarray]:
    """Times (int64) and products (float64) of two quantities, at the times of the first where both are known."""
    if not len(one.times_ns) or not len(other.times_ns):
        return np.empty(0, np.int64), np.empty(0)
    both = (one.times_ns >= other.times_ns[0]) & (one.times_ns <= other.times_ns[-1])
    start = one.times_ns[0]
    there = np.interp(
        (one.times_ns[both] - start).astype(float), (other.times_ns - start).astype(float), other.values.astype(float)
    )
    return one.times_ns[both], one.values[both] * there
