"""Numbers that change while training goes on: functions of progress, 0 at its start and 1 at its end."""

import math
from collections.abc import Callable

Schedule = Callable[[float], float]
Number = float | Schedule


def at(number: Number, progress: float) -> float:
    """The value of a number or a schedule at a progress of 0 to 1."""
    return number(progress) if callable(number) else number


def constant(value: float) -> Schedule:
    return lambda progress: value


def linear(start: float, end: float) -> Schedule:
    """start + (end - start) progress."""
    return lambda progress: start + (end - start) * progress


def cosine(start: float, end: float) -> Schedule:
    """end + (start - end) (1 + cos(pi progress)) / 2: slow at both ends (Loshchilov & Hutter 2016, equation 5)."""
    return lambda progress: end + (start - end) * (1.0 + math.cos(math.pi * progress)) / 2.0
