"""RAPL: the energy counters of x86 processors, all packages together."""

import re
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from edgekd.bench.power.source import NoSource, Power, Series, Source

ZONE = re.compile(r"(/sys/class/powercap/(?:.*/)?intel-rapl[^/]*)/name")


def find(sensors: Mapping[str, str]) -> Source | NoSource:
    """The counters of all packages; one that two interfaces show is taken once."""
    zones: dict[str, str] = {}
    for match in map(ZONE.fullmatch, sorted(sensors, key=lambda path: ("mmio" in path, path))):
        if match and (name := sensors[match[0]]).startswith("package-"):
            zones.setdefault(name, match[1])
    if not zones:
        return NoSource("there is no RAPL package")
    paths = tuple(f"{zone}/energy_uj" for zone in zones.values())
    ranges = [sensors.get(f"{zone}/max_energy_range_uj", "") for zone in zones.values()]
    for path, limit in zip(paths, ranges, strict=True):
        if path not in sensors:
            return NoSource(f"{path} cannot be read; many systems keep it for root: ask for the right to read it")
        if not limit.isdecimal() or int(limit) == 0:
            return NoSource(f"{path} has no range beside it, so that its wrap-around cannot be undone")
    return Source("rapl", " + ".join(zones), paths, partial(watts, ranges_uj=tuple(map(int, ranges))))


def watts(samples: Sequence[Series], _offset_ns: int = 0, *, ranges_uj: Sequence[int]) -> Power:
    """Power from counters in microjoules that start again at zero after `ranges_uj`; level between two readings."""
    counted = [_joules(one, limit) for one, limit in zip(samples, ranges_uj, strict=True)]
    if any(len(times) < 2 for times, _ in counted):
        return Power(np.empty(0, np.int64), np.empty(0))
    first, last = max(times[0] for times, _ in counted), min(times[-1] for times, _ in counted)
    times = counted[0][0][(counted[0][0] >= first) & (counted[0][0] <= last)]
    joules = np.zeros(len(times))
    for there, energy in counted:
        joules += np.interp((times - first).astype(float), (there - first).astype(float), energy)
    levels = np.diff(joules) / (np.diff(times) / 1e9)
    return Power(np.stack([times[:-1], times[1:]], axis=1).ravel(), np.repeat(levels, 2))


def _joules(series: Series, range_uj: int) -> tuple[np.ndarray, np.ndarray]:
    """Times (int64) and the joules since the first of them, wrap-arounds undone."""
    new = np.diff(series.times_ns, prepend=series.times_ns[:1] - 1) > 0
    steps = np.diff(series.values[new])
    return series.times_ns[new], np.concatenate([[0.0], np.cumsum(np.where(steps < 0, steps + range_uj, steps))]) / 1e6
