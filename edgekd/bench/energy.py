"""Energy per inference: from power that was sampled while a model ran, or estimated from a device's profile."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from edgekd.bench.power.source import NoSource, Power, Series, Source
from edgekd.bench.statistics import BLOCKS, CONFIDENCE, RESAMPLES, Percentile
from edgekd.device import DeviceProfile
from edgekd.errors import UsageError

WINDOW_SECONDS = 10.0
"""The shortest stretch of time that gives one figure, as MLPerf Tiny asks for."""
SLACK = 0.99
"""Share of a window that is enough for one: a clock is read a little after the phase began."""
FEWEST_SAMPLES = 10
"""Samples that the idle phase and every window hold at least."""
LONGEST_GAP_SECONDS = 2.0
BLOCK_SECONDS = 1.0
"""How long a block of the bootstrap is at least."""
BACKWARD_LIMIT = 0.05
"""Share of all power that may read below zero, as a sensor's noise does."""


@dataclass(frozen=True)
class Recording:
    """What one process saw. idle, active: begin and end of the phases in nanoseconds of the device's monotonic clock.

    series: of the source's paths, in their order. starts_ns, runs_ns: begin and length of every run in the active
    phase, int64, shape (N,), in order. offset_ns: the wall clock less the device's clock; a meter's file needs it.
    """

    idle: tuple[int, int]
    active: tuple[int, int]
    series: tuple[Series, ...]
    starts_ns: np.ndarray
    runs_ns: np.ndarray
    offset_ns: int = 0


@dataclass(frozen=True)
class Joules:
    """Energy of one inference above idle, and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Energy:
    """What one inference costs. idle_watts: what was subtracted; source: the sensor, or where the figures are from.

    why: the reason for `estimated` and `not measured`; empty for `measured`.
    """

    joules_per_inference: Joules | None
    idle_watts: float | None
    active_watts: float | None
    source: str
    kind: Literal["measured", "estimated", "not measured"]
    why: str


@dataclass(frozen=True)
class _Curve:
    """Energy since the first sample, exact for power that is linear between its samples and level before and after.

    joules: up to each sample.
    """

    start_ns: int
    seconds: np.ndarray
    watts: np.ndarray
    joules: np.ndarray

    def between(self, begin_ns: float, end_ns: float) -> float:
        return self._until(end_ns) - self._until(begin_ns)

    def _until(self, time_ns: float) -> float:
        time = (time_ns - self.start_ns) / 1e9
        here = max(int(np.searchsorted(self.seconds, time, side="right")) - 1, 0)
        past, level, slope = time - self.seconds[here], self.watts[here], 0.0
        if past > 0 and here + 1 < len(self.seconds):
            slope = (self.watts[here + 1] - level) / (self.seconds[here + 1] - self.seconds[here])
        return float(self.joules[here] + past * (level + slope * past / 2))


def run_starts(chunks: Iterable[tuple[int, np.ndarray]]) -> np.ndarray:
    """When each run began, int64: from when a chunk of runs began, and the lengths of its runs, shape (N,)."""
    starts = [begin + np.cumsum(runs_ns, dtype=np.int64) - runs_ns for begin, runs_ns in chunks]
    return np.concatenate([np.empty(0, np.int64), *starts])


def energy(
    source: Source | NoSource,
    recordings: Sequence[Recording],
    profile: DeviceProfile,
    p50: Percentile | None,
    threads: int = 1,
) -> Energy:
    """Energy per inference: measured where there is a source, else estimated from the profile's idle and active watts.

    What a source gives and cannot be used, all zeros before all, is `not measured` and never becomes an estimate.
    """
    if isinstance(source, NoSource):
        return estimated(profile, p50, threads, source.why)
    return measured(source, recordings)


def measured(source: Source, recordings: Sequence[Recording]) -> Energy:
    """The median of windows of at least ten seconds, idle subtracted; the interval from a bootstrap.

    The bootstrap draws recordings, and consecutive blocks of the active and of the idle phase within each, so that
    what is not known of idle is in the interval too.
    """
    named = f"{source.name}: {source.what}"
    lost = next((reason for one in recordings if (reason := _lost(source, one))), "")
    if lost or not recordings:
        return _not_measured(named, lost or "nothing was recorded")
    try:
        powers = [source.watts(one.series, one.offset_ns) for one in recordings]
    except UsageError as error:
        return _not_measured(named, str(error))
    reason = _unusable(powers, recordings)
    if reason:
        return _not_measured(named, reason)
    resting = [_curve(power, one.idle) for power, one in zip(powers, recordings, strict=True)]
    working = [_curve(power, one.active) for power, one in zip(powers, recordings, strict=True)]
    idle = [_mean(curve, *one.idle) for curve, one in zip(resting, recordings, strict=True)]
    active = [_mean(curve, *one.active) for curve, one in zip(working, recordings, strict=True)]
    figures = [
        _per_inference(curve, one, watts, *window)
        for curve, one, watts in zip(working, recordings, idle, strict=True)
        for window in _windows(one.active)
    ]
    value = float(np.median(figures))
    idle_watts, active_watts = float(np.mean(idle)), float(np.mean(active))
    if value <= 0:
        return Energy(
            None,
            idle_watts,
            active_watts,
            named,
            "not measured",
            f"it draws {active_watts:.3g} W while it runs and {idle_watts:.3g} W when idle: no difference to measure",
        )
    low, high = _interval(list(zip(resting, working, recordings, strict=True)))
    return Energy(Joules(value, min(low, value), max(high, value)), idle_watts, active_watts, named, "measured", "")


def estimated(profile: DeviceProfile, p50: Percentile | None, threads: int, why: str) -> Energy:
    """The profile's watts above idle, for as many cores as there are threads, times the median run time.

    why: the reason that nothing was measured. The interval is that of the run time alone.
    """
    figures = profile.power
    if figures is None or figures.idle_watts is None or figures.active_watts is None:
        return _not_measured("", f"{why}; the profile has no idle_watts and active_watts to estimate from")
    if p50 is None:
        return _not_measured("", f"{why}; there are too few runs to estimate from")
    above = (figures.active_watts - figures.idle_watts) * threads / figures.active_cores
    joules = Joules(*(above * milliseconds / 1e3 for milliseconds in (p50.value, p50.low, p50.high)))
    return Energy(joules, figures.idle_watts, figures.idle_watts + above, "; ".join(figures.sources), "estimated", why)


def sentence(found: Energy) -> str:
    """One line for people: what it costs, how that is known, and that idle is not in it."""
    if found.joules_per_inference is None or found.idle_watts is None:
        return f"energy: not measured ({found.why})"
    joules = found.joules_per_inference
    figures = " to ".join(f"{1e3 * limit:.3g}" for limit in (joules.low, joules.high))
    why = f"; {found.why}" if found.why else ""
    return (
        f"energy: {1e3 * joules.value:.3g} mJ per inference ({figures}), {found.kind}, "
        f"{found.idle_watts:.3g} W of idle subtracted ({found.source}{why})"
    )


def _not_measured(source: str, why: str) -> Energy:
    return Energy(None, None, None, source, "not measured", why)


def _lost(source: Source, recording: Recording) -> str:
    for path, series in zip(source.paths, recording.series, strict=True):
        if series.lost_ns is not None:
            after = (series.lost_ns - recording.idle[0]) / 1e9
            return f"the sensor {path} vanished after {after:.1f} s"
        if not len(series.times_ns):
            return f"the sensor {path} gave no reading"
    return ""


def _unusable(powers: Sequence[Power], recordings: Sequence[Recording]) -> str:
    """Why no energy can be told from these readings, or nothing."""
    phases = [(power, phase) for power, one in zip(powers, recordings, strict=True) for phase in (one.idle, one.active)]
    everything = np.concatenate([power.watts[_within(power, *phase)] for power, phase in phases])
    if not len(everything):
        return "there is no power reading from the time of the runs; is the meter on, and its clock right?"
    if not everything.any():
        return "every reading is 0 W"
    if -np.minimum(everything, 0).sum() > BACKWARD_LIMIT * np.abs(everything).sum():
        return "the power reads below zero: it flowed the other way, as into a battery that is charged"
    for power, one in zip(powers, recordings, strict=True):
        seconds = (one.active[1] - one.active[0]) / 1e9
        if not len(one.starts_ns):
            return "there were no runs"
        if seconds < SLACK * WINDOW_SECONDS:
            return f"the runs took {seconds:.1f} s, less than a window of {WINDOW_SECONDS:g} s; use a longer protocol"
        silent = max(one.starts_ns[0] - one.active[0], one.active[1] - one.starts_ns[-1] - one.runs_ns[-1]) / 1e9
        if silent >= BLOCK_SECONDS:
            return f"there were no runs for {silent:.1f} s of the active phase"
        for name, phase in (("idle", one.idle), *(("active", window) for window in _windows(one.active))):
            inside = np.unique(power.times_ns[_within(power, *phase)])
            if len(inside) < FEWEST_SAMPLES:
                return f"only {len(inside)} power readings in {(phase[1] - phase[0]) / 1e9:.1f} s ({name})"
            gap = np.diff(inside, prepend=phase[0], append=phase[1]).max() / 1e9
            if gap > LONGEST_GAP_SECONDS:
                return f"there was no power reading for {gap:.1f} s ({name})"
    return ""


def _within(power: Power, begin_ns: float, end_ns: float) -> np.ndarray:
    return (power.times_ns >= begin_ns) & (power.times_ns <= end_ns)


def _windows(phase: tuple[int, int]) -> list[tuple[float, float]]:
    """Consecutive windows of equal length that fill a phase, none shorter than it has to be."""
    seconds = (phase[1] - phase[0]) / 1e9
    return _split(phase, max(1, int(seconds / WINDOW_SECONDS)))


def _split(phase: tuple[int, int], parts: int) -> list[tuple[float, float]]:
    edges = np.linspace(phase[0], phase[1], parts + 1)
    return list(pairwise(edges))


def _curve(power: Power, phase: tuple[int, int]) -> _Curve:
    """From the readings of a phase alone: what is drawn while a model is loaded is no part of it."""
    inside = _within(power, *phase)
    start, watts = int(power.times_ns[inside][0]), power.watts[inside]
    seconds = (power.times_ns[inside] - start) / 1e9
    steps = np.diff(seconds) * (watts[1:] + watts[:-1]) / 2
    return _Curve(start, seconds, watts, np.concatenate([[0.0], np.cumsum(steps)]))


def _mean(curve: _Curve, begin_ns: float, end_ns: float) -> float:
    return curve.between(begin_ns, end_ns) / ((end_ns - begin_ns) / 1e9)


def _per_inference(curve: _Curve, recording: Recording, idle_watts: float, begin_ns: float, end_ns: float) -> float:
    above = curve.between(begin_ns, end_ns) - idle_watts * (end_ns - begin_ns) / 1e9
    return above / _runs(recording, begin_ns, end_ns)


def _runs(recording: Recording, begin_ns: float, end_ns: float) -> float:
    """How many runs lie between two times; one that is cut by an edge counts by its share."""
    origin = recording.active[0]
    ends = recording.starts_ns + recording.runs_ns
    at = np.concatenate([recording.starts_ns[:1], ends]) - origin
    done = np.interp([begin_ns - origin, end_ns - origin], at.astype(float), np.arange(len(at)))
    return float(done[1] - done[0])


def _interval(recorded: Sequence[tuple[_Curve, _Curve, Recording]]) -> tuple[float, float]:
    random = np.random.default_rng(0)
    drawn = np.stack([_resampled(*one, random) for one in recorded])
    among = random.integers(len(recorded), size=(RESAMPLES, len(recorded)))
    within = random.integers(RESAMPLES, size=(RESAMPLES, len(recorded)))
    means = drawn[among, within].mean(axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _resampled(resting: _Curve, working: _Curve, recording: Recording, random: np.random.Generator) -> np.ndarray:
    """Energy per inference of one recording from blocks drawn with replacement; shape (RESAMPLES,).

    One block fewer is drawn than there are: so the spread of the drawn means is that of the mean (Rao and Wu 1988),
    which matters where blocks are few.
    """
    idle, active = _blocks(resting, recording.idle), _blocks(working, recording.active)
    idle_watts = np.array([_mean(resting, *block) for block in idle])
    joules = np.array([working.between(*block) for block in active])
    runs = np.array([_runs(recording, *block) for block in active])
    subtracted = idle_watts[random.integers(len(idle), size=(RESAMPLES, len(idle) - 1))].mean(axis=1)
    picked = random.integers(len(active), size=(RESAMPLES, len(active) - 1))
    seconds = (active[0][1] - active[0][0]) / 1e9
    found: np.ndarray = (joules[picked].mean(axis=1) - subtracted * seconds) / runs[picked].mean(axis=1)
    return found


def _blocks(curve: _Curve, phase: tuple[int, int]) -> list[tuple[float, float]]:
    """Blocks of about equal length, long enough that a sensor's own averaging does not reach across many."""
    seconds = (phase[1] - phase[0]) / 1e9
    parts = min(BLOCKS, int(np.sqrt(len(curve.seconds))), int(seconds / BLOCK_SECONDS))
    return _split(phase, max(2, parts))
