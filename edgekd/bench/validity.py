"""Whether a measurement may be quoted: spread, drift, throttling, and a clock that can be trusted.

Every function returns the reason against it in one line, or nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SPREAD_LIMIT = 0.05
DRIFT_LIMIT = 0.05
FREQUENCY_LIMIT = 0.1
"""How far the fastest core may be slower afterwards."""
SLOWER_LIMIT = 0.01
"""Drift that goes with a fall of the frequency, where the governor may let it fall for want of work alone."""
FIXED_GOVERNORS = ("performance", "userspace")
NEAR_CELSIUS = 1.0
SUM_LIMIT = 0.001
"""How far the runs may take longer together than the phase that they are in: never, but for rounding."""
GAP_LIMIT = 0.25
"""Share of the phase that may pass between the runs."""
LONG_RUN_SECONDS = 1.0
LONG_RUN_FACTOR = 100.0
HOST_LIMIT = 0.05
HOST_SECONDS = 1.0


def unsteady(spread: float, process_spread: float | None, drift: float) -> str:
    """See `edgekd.bench.statistics.Stability`; process_spread: the same between processes, or None."""
    if not spread <= SPREAD_LIMIT:
        return f"the spread of {spread:.1%} is above {SPREAD_LIMIT:.0%}; other work on this machine disturbs it"
    if process_spread is not None and not process_spread <= SPREAD_LIMIT:
        return f"the spread between processes of {process_spread:.1%} is above {SPREAD_LIMIT:.0%}"
    if not abs(drift) <= DRIFT_LIMIT:
        return f"it drifted by {drift:+.1%} from the first to the last quarter; the device throttles or warms up"
    return ""


def throttled(
    before: Mapping[str, Any], after: Mapping[str, Any], drift: float = 0.0, limit_celsius: float | None = None
) -> str:
    """From the agent's state before and after, as a dictionary: frequency, temperature and power supply.

    drift: of the runs; a lower frequency counts only with slower runs where the governor may lower it at will.
    limit_celsius: the temperature at which the device throttles, if it is known.
    """
    first, last = (_largest(state, "frequency_khz") for state in (before, after))
    fixed = before.get("governor") in FIXED_GOVERNORS
    if first and last and last < first * (1 - FREQUENCY_LIMIT) and (fixed or drift > SLOWER_LIMIT):
        return f"the processor went from {first / 1e6:.2f} to {last / 1e6:.2f} GHz; it throttles: cool it, or wait"
    if before.get("governor") != after.get("governor"):
        return f"the governor changed from {before.get('governor')} to {after.get('governor')}"
    hottest = _largest(after, "temperature_millicelsius")
    if limit_celsius is not None and hottest is not None and hottest / 1e3 >= limit_celsius - NEAR_CELSIUS:
        return f"it reached {hottest / 1e3:.1f} degrees and throttles at {limit_celsius:g}; cool it, or wait"
    supplies = [(state.get("battery") or {}).get("status") for state in (before, after)]
    if supplies[0] != supplies[1]:
        return f"the battery went from {supplies[0]} to {supplies[1]}; leave the charger as it is"
    return ""


def clock_jumped(runs_ns: np.ndarray, phase_ns: tuple[int, int], host_seconds: float | None = None) -> str:
    """From the lengths of all runs, shape (N,), and the begin and end of the phase that they are in.

    host_seconds: how long the phase took by this machine's clock; leave it out where the device's time is virtual.
    """
    phase = (phase_ns[1] - phase_ns[0]) / 1e9
    if phase <= 0 or not len(runs_ns):
        return f"the runs ended {-phase:.3f} s before they began; the device's clock jumped" if phase < 0 else ""
    runs = runs_ns.astype(float) / 1e9
    total, longest, middle = float(runs.sum()), float(runs.max()), float(np.median(runs))
    if total > phase * (1 + SUM_LIMIT):
        return f"the runs took {total:.3f} s together, in {phase:.3f} s; the device's clock jumped"
    if total < phase * (1 - GAP_LIMIT):
        return f"the runs took {total:.3f} s of {phase:.3f} s; the device's clock jumped, or it was stopped in between"
    if longest > max(LONG_RUN_SECONDS, LONG_RUN_FACTOR * middle):
        return f"one run took {longest:.1f} s, where {1e3 * middle:.3g} ms is usual; the clock jumped, or it slept"
    if host_seconds is not None and abs(host_seconds - phase) > max(HOST_SECONDS, HOST_LIMIT * host_seconds):
        return f"{phase:.1f} s passed on the device and {host_seconds:.1f} s here; the device's clock is wrong"
    return ""


def _largest(state: Mapping[str, Any], key: str) -> float | None:
    values: Sequence[float] = state.get(key) or ()
    return max(values, default=None)
