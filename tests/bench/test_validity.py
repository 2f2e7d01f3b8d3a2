import math
from typing import Any

import numpy as np
import pytest

from edgekd.bench.validity import clock_jumped, throttled, unsteady

SECOND = 10**9
STATE: dict[str, Any] = {
    "governor": "performance",
    "frequency_khz": [1_500_000, 1_800_000],
    "temperature_millicelsius": [51_000, 60_000],
    "battery": {"status": "Discharging", "capacity": 80},
    "load1": 0.1,
}


def state(**changes: Any) -> dict[str, Any]:
    return {**STATE, **changes}


@pytest.mark.parametrize(
    ("numbers", "word"),
    [
        ((0.05, None, 0.05), ""),
        ((0.0, 0.05, -0.05), ""),
        ((0.051, None, 0.0), "spread of 5.1%"),
        ((0.0, 0.06, 0.0), "between processes of 6.0%"),
        ((0.0, None, 0.06), "drifted by +6.0%"),
        ((0.0, 0.0, -0.06), "drifted by -6.0%"),
        ((math.inf, None, math.inf), "spread"),
        ((math.nan, None, 0.0), "spread"),
    ],
)
def test_spread_and_drift_have_limits(numbers: tuple[float, float | None, float], word: str) -> None:
    assert (word in unsteady(*numbers)) if word else not unsteady(*numbers)


def test_a_device_that_stays_as_it_was_is_fine() -> None:
    assert throttled(STATE, STATE, drift=0.04, limit_celsius=80.0) == ""


def test_a_fixed_frequency_that_fell_is_throttling() -> None:
    message = throttled(STATE, state(frequency_khz=[1_000_000, 1_000_000]))
    assert "from 1.80 to 1.00 GHz" in message


def test_the_fastest_core_counts() -> None:
    assert throttled(STATE, state(frequency_khz=[1_800_000, 600_000])) == ""


def test_a_governor_may_lower_the_frequency_of_a_device_that_has_done_its_work() -> None:
    before, after = state(governor="ondemand"), state(governor="ondemand", frequency_khz=[600_000, 600_000])
    assert throttled(before, after) == ""
    assert throttled(before, after, drift=-0.04) == ""
    assert "throttles" in throttled(before, after, drift=0.04)


def test_a_frequency_that_rises_is_fine() -> None:
    assert throttled(state(governor="ondemand", frequency_khz=[600_000]), state(governor="ondemand"), 0.04) == ""


def test_a_device_that_is_about_to_throttle_is_told() -> None:
    hot = state(temperature_millicelsius=[79_200])
    assert "79.2 degrees" in throttled(STATE, hot, limit_celsius=80.0)
    assert throttled(STATE, hot) == ""
    assert throttled(STATE, state(temperature_millicelsius=[78_900]), limit_celsius=80.0) == ""


def test_a_charger_that_comes_or_goes_is_told() -> None:
    assert "Charging" in throttled(STATE, state(battery={"status": "Charging"}))
    assert throttled(STATE, state(battery={"status": "Discharging", "capacity": 79})) == ""


def test_a_governor_that_changed_is_told() -> None:
    assert "performance to powersave" in throttled(STATE, state(governor="powersave"))


@pytest.mark.parametrize("nothing", [{}, {"frequency_khz": [], "temperature_millicelsius": None, "battery": None}])
def test_a_device_that_tells_nothing_is_taken_at_its_word(nothing: dict[str, Any]) -> None:
    assert throttled(nothing, nothing, limit_celsius=80.0) == ""


def runs(*milliseconds: float) -> np.ndarray:
    return np.array([round(1e6 * one) for one in milliseconds], np.uint64)


STEADY = runs(*[10.0] * 1000)


def test_runs_that_fill_their_phase_are_fine() -> None:
    assert clock_jumped(STEADY, (7 * SECOND, 17 * SECOND)) == ""
    assert clock_jumped(STEADY, (7 * SECOND, 17 * SECOND + SECOND // 2), host_seconds=10.9) == ""


@pytest.mark.parametrize(
    ("phase", "word"),
    [
        ((7 * SECOND, 16 * SECOND), "in 9.000 s"),
        ((7 * SECOND, 7 * SECOND), ""),
        ((7 * SECOND, 5 * SECOND), "2.000 s before"),
        ((7 * SECOND, 30 * SECOND), "of 23.000 s"),
    ],
)
def test_a_clock_that_jumps_between_runs_is_told(phase: tuple[int, int], word: str) -> None:
    assert word in clock_jumped(STEADY, phase)
    assert bool(clock_jumped(STEADY, phase)) or phase[0] == phase[1]


def test_a_clock_that_jumps_within_a_run_is_told() -> None:
    jumped = runs(*[10.0] * 500, 3_600_000.0, *[10.0] * 500)
    assert "one run took 3600.0 s" in clock_jumped(jumped, (0, int(jumped.sum())))


def test_one_slow_run_is_no_jump() -> None:
    slow = runs(*[10.0] * 500, 400.0)
    assert clock_jumped(slow, (0, int(slow.sum()))) == ""


def test_a_clock_that_runs_otherwise_than_this_one_is_told() -> None:
    assert "14.0 s here" in clock_jumped(STEADY, (0, 10 * SECOND), host_seconds=14.0)


def test_no_runs_tell_nothing() -> None:
    assert clock_jumped(np.empty(0, np.uint64), (0, SECOND)) == ""
