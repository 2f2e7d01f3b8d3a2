"""Energy per inference against closed forms: constant power, ramps, counters, and every reason not to tell one."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from edgekd.bench.energy import Energy, Recording, energy, estimated, measured, run_starts, sentence
from edgekd.bench.power import battery, hwmon, rapl
from edgekd.bench.power.source import NoSource, Series, Source
from edgekd.bench.statistics import Percentile
from edgekd.device import DeviceProfile, PowerFigures, load_device
from edgekd.errors import UsageError

SECOND = 10**9
START = 5_000 * SECOND
"""Where a device's monotonic clock may stand."""
PATH = "/sys/class/hwmon/hwmon0/power1_input"
SOURCE = Source("hwmon", "power1 of ina226", (PATH,), hwmon.watts)
PROFILE = DeviceProfile("A board", "local", "measured")

Shape = Callable[[np.ndarray], np.ndarray]


def level(watts: float) -> Shape:
    return lambda seconds: np.full(len(seconds), watts)


IDLE = level(2.0)


def recording(
    active: Shape,
    idle: Shape = IDLE,
    *,
    idle_seconds: float = 5.0,
    seconds: float = 30.0,
    run_ms: float = 5.0,
    sample_ms: float = 100.0,
) -> Recording:
    """Microwatts that follow `idle` and then `active`, each by the seconds since its phase began."""
    between = START + round(idle_seconds * SECOND)
    end = between + round(seconds * SECOND)
    times = np.arange(START, end + 1, round(sample_ms * 1e6))
    before = times < between
    watts = np.concatenate([idle((times[before] - START) / 1e9), active((times[~before] - between) / 1e9)])
    starts = np.arange(between, end, round(run_ms * 1e6))
    return Recording(
        (START, between - SECOND),  # the runtime loads the model in the last second
        (between, end),
        (Series(times, np.round(watts * 1e6).astype(np.int64)),),
        starts,
        np.full(len(starts), round(run_ms * 1e6)),
    )


def joules(found: Energy) -> float:
    assert found.kind == "measured", found.why
    assert found.joules_per_inference is not None
    assert found.joules_per_inference.low <= found.joules_per_inference.value <= found.joules_per_inference.high
    return found.joules_per_inference.value


def refused(*recordings: Recording, source: Source = SOURCE) -> str:
    found = measured(source, recordings)
    assert (found.kind, found.joules_per_inference) == ("not measured", None)
    assert found.why
    assert "\n" not in found.why
    return found.why


def test_constant_power_is_watts_above_idle_times_the_time_of_a_run() -> None:
    found = measured(SOURCE, [recording(level(6.0))])
    assert joules(found) == pytest.approx((6.0 - 2.0) * 0.005)
    assert (found.idle_watts, found.active_watts) == pytest.approx((2.0, 6.0))
    assert found.source == "hwmon: power1 of ina226"
    assert found.joules_per_inference is not None
    assert (found.joules_per_inference.low, found.joules_per_inference.high) == pytest.approx((0.02, 0.02))


@pytest.mark.parametrize("seconds", [10.0, 12.3, 30.0, 60.0])
def test_a_ramp_is_the_area_of_its_triangle(seconds: float) -> None:
    """Power rises by 0.1 W a second: the median of windows is that of the middle, and the average power is there."""
    found = measured(SOURCE, [recording(lambda t: 3.0 + 0.1 * t, seconds=seconds, run_ms=10.0)])
    middle = 3.0 + 0.1 * seconds / 2 - 2.0
    assert joules(found) == pytest.approx(middle * 0.010, rel=1e-3)
    assert found.active_watts == pytest.approx(3.0 + 0.1 * seconds / 2, rel=1e-3)


def test_readings_may_come_at_odd_times() -> None:
    """Straight lines are exact between readings, wherever these are: leave out two of three, at random."""
    whole = recording(lambda t: 3.0 + 0.2 * t)
    kept = np.sort(np.random.default_rng(0).permutation(len(whole.series[0].times_ns))[::3])
    times, values = (getattr(whole.series[0], name)[kept] for name in ("times_ns", "values"))
    some = replace(whole, series=(Series(times, values),))
    assert joules(measured(SOURCE, [some])) == pytest.approx(joules(measured(SOURCE, [whole])), rel=1e-3)


def test_runs_begin_where_the_one_before_ended() -> None:
    chunks = [(100, np.array([5, 7, 1])), (200, np.array([2]))]
    assert run_starts(chunks).tolist() == [100, 105, 112, 200]
    assert run_starts([]).tolist() == []


def test_what_is_drawn_between_the_phases_is_no_part_of_it() -> None:
    """Neither where it is sampled, nor where it is not and a counter went on meanwhile."""
    one = recording(level(6.0))
    (series,) = one.series
    between = (series.times_ns > one.idle[1]) & (series.times_ns < one.active[0])
    assert between.sum() == 9
    loading = replace(one, series=(Series(series.times_ns, np.where(between, 90_000_000, series.values)),))
    silent = replace(one, series=(Series(series.times_ns[~between], series.values[~between]),))
    for other in (loading, silent):
        assert measured(SOURCE, [other]) == measured(SOURCE, [one])


def test_the_median_window_is_quoted() -> None:
    """Something else ran in one of three windows."""
    found = measured(SOURCE, [recording(lambda t: np.where(t < 20.0, 6.0, 12.0))])
    assert joules(found) == pytest.approx(0.02, rel=0.01)
    assert found.joules_per_inference is not None
    assert found.joules_per_inference.high > 0.025


def test_time_between_the_runs_is_paid_for_by_the_runs() -> None:
    """Half of the active phase is spent between runs, at the same power."""
    one = recording(level(6.0))
    half = replace(one, starts_ns=one.starts_ns[::2], runs_ns=one.runs_ns[::2])
    assert joules(measured(SOURCE, [half])) == pytest.approx(2 * 0.02, rel=1e-3)


def test_runs_longer_than_a_window_count_by_their_share() -> None:
    assert joules(measured(SOURCE, [recording(level(6.0), run_ms=15_000.0)])) == pytest.approx(4.0 * 15.0)


def test_a_counter_gives_the_same_as_a_power_meter() -> None:
    """3 W, then 7 W, as microjoules that start again at zero on the way."""
    one = recording(level(7.0), level(3.0))
    times = one.series[0].times_ns
    at = one.active[0]
    energy_uj = (3.0 * np.minimum(times - START, at - START) + 7.0 * np.maximum(times - at, 0)) / 1e3
    limit = 40_000_000
    counter = Series(times, np.round(energy_uj).astype(np.int64) % limit)
    source = Source("rapl", "package-0", ("energy_uj",), lambda s, _: rapl.watts(s, ranges_uj=[limit]))
    found = measured(source, [replace(one, series=(counter,))])
    assert joules(found) == pytest.approx(4.0 * 0.005, rel=1e-3)
    assert (found.idle_watts, found.active_watts) == pytest.approx((3.0, 7.0), rel=1e-3)


def test_processes_are_put_together() -> None:
    three = [recording(level(watts)) for watts in (5.0, 6.0, 7.0)]
    found = measured(SOURCE, three)
    assert joules(found) == pytest.approx(0.02)
    assert found.active_watts == pytest.approx(6.0)
    assert found.joules_per_inference is not None
    assert found.joules_per_inference.low < 0.019
    assert found.joules_per_inference.high > 0.021


def noisy(seed: int) -> Recording:
    random = np.random.default_rng(seed)
    return recording(
        lambda t: 6.0 + random.normal(0, 1.0, len(t)), lambda t: 2.0 + random.normal(0, 1.0, len(t)), seconds=10.0
    )


def test_the_interval_holds_the_truth_nearly_as_often_as_it_says() -> None:
    intervals = [measured(SOURCE, [noisy(seed)]).joules_per_inference for seed in range(100)]
    held = [one is not None and one.low <= 0.02 <= one.high for one in intervals]
    assert 0.85 <= np.mean(held) < 1.0


def test_the_same_readings_give_the_same_interval() -> None:
    assert measured(SOURCE, [noisy(1)]) == measured(SOURCE, [noisy(1)])


@pytest.mark.parametrize("watts", [0.0, -0.0])
def test_zero_throughout_is_not_measured(watts: float) -> None:
    assert refused(recording(level(watts), level(watts))) == "every reading is 0 W"


def test_a_counter_that_stands_still_is_not_measured() -> None:
    one = recording(level(5.0))
    still = replace(one, series=(Series(one.series[0].times_ns, np.full(len(one.series[0].values), 77)),))
    source = Source("rapl", "package-0", ("energy_uj",), lambda s, _: rapl.watts(s, ranges_uj=[1000]))
    assert refused(still, source=source) == "every reading is 0 W"


def test_no_more_than_idle_is_not_measured() -> None:
    assert "no difference" in refused(recording(level(2.0)))
    assert "no difference" in refused(recording(level(1.9)))


def test_a_sensor_that_vanishes_is_not_measured() -> None:
    one = recording(level(6.0))
    (series,) = one.series
    half = Series(series.times_ns[:200], series.values[:200], lost_ns=int(series.times_ns[200]))
    message = refused(replace(one, series=(half,)))
    assert message == f"the sensor {PATH} vanished after 20.0 s"


def test_a_sensor_that_stops_without_a_word_is_not_measured() -> None:
    one = recording(level(6.0))
    (series,) = one.series
    half = replace(one, series=(Series(series.times_ns[:300], series.values[:300]),))
    assert "no power reading for 5.1 s" in refused(half)


def test_no_reading_is_not_measured() -> None:
    nothing = Series(np.empty(0, np.int64), np.empty(0, np.int64))
    assert "no reading" in refused(replace(recording(level(6.0)), series=(nothing,)))
    assert "nothing was recorded" in refused()
    elsewhere = replace(recording(level(6.0)), active=(0, 30 * SECOND), idle=(-5 * SECOND, 0))
    assert "its clock right" in refused(elsewhere)
    assert refused(
        replace(recording(level(6.0)), series=()),
        source=replace(SOURCE, paths=(), watts=lambda *_: hwmon.watts([nothing])),
    )


def test_too_few_readings_are_not_measured() -> None:
    assert "only 3 power readings" in refused(recording(level(6.0), sample_ms=1500.0))
    assert "only 4 power readings" in refused(recording(level(6.0), idle_seconds=1.35))


def test_a_phase_that_is_too_short_is_not_measured() -> None:
    message = refused(recording(level(6.0), seconds=6.0))
    assert "6.0 s" in message
    assert "longer protocol" in message


def test_no_runs_are_not_measured() -> None:
    one = recording(level(6.0))
    nothing = np.empty(0, np.int64)
    assert "no runs" in refused(replace(one, starts_ns=nothing, runs_ns=nothing))
    late = replace(one, starts_ns=one.starts_ns[4500:], runs_ns=one.runs_ns[4500:])
    assert "no runs for 22.5 s" in refused(late)
    early = replace(one, starts_ns=one.starts_ns[:5000], runs_ns=one.runs_ns[:5000])
    assert "no runs for 5.0 s" in refused(early)


def test_a_charger_that_comes_in_is_not_measured() -> None:
    one = recording(level(6.0))
    current = one.series[0].values.copy()
    current[250:] *= -1
    voltage = Series(one.series[0].times_ns, np.full(len(current), 1_000_000))
    source = Source("battery", "the battery BAT0", ("current_now", "voltage_now"), battery.watts)
    message = refused(replace(one, series=(Series(voltage.times_ns, -current), voltage)), source=source)
    assert "below zero" in message


def test_a_meter_s_file_that_breaks_is_not_measured() -> None:
    def broken(*_: object) -> None:
        raise UsageError("meter.csv, line 7: 'x' is not a time and its readings")

    message = refused(replace(recording(level(6.0)), series=()), source=Source("csv", "meter.csv", (), broken))  # type: ignore[arg-type]
    assert "line 7" in message


BOARD = replace(PROFILE, power=PowerFigures(idle_watts=2.0, active_watts=6.0, active_cores=4, sources=("a review",)))
P50 = Percentile(5.0, 4.9, 5.2)


def test_without_a_meter_it_is_estimated_for_the_cores_that_work() -> None:
    found = energy(NoSource("there is no battery"), [], BOARD, P50)
    assert found.kind == "estimated"
    assert found.joules_per_inference is not None
    limits = found.joules_per_inference
    assert (limits.value, limits.low, limits.high) == pytest.approx((0.005, 0.0049, 0.0052))
    assert (found.idle_watts, found.active_watts) == (2.0, 3.0)
    assert (found.source, found.why) == ("a review", "there is no battery")
    four = estimated(BOARD, P50, 4, "").joules_per_inference
    assert four is not None
    assert four.value == pytest.approx(0.02)


def test_a_board_that_comes_along_is_estimated_from_its_sources() -> None:
    found = energy(NoSource("nothing to read"), [], load_device("raspberry-pi-4"), P50)
    assert found.joules_per_inference is not None
    assert found.joules_per_inference.value == pytest.approx((6.4 - 2.7) / 4 * 0.005)
    assert "pidramble" in found.source


@pytest.mark.parametrize(
    ("profile", "p50"),
    [(PROFILE, P50), (replace(PROFILE, power=PowerFigures()), P50), (BOARD, None)],
)
def test_what_cannot_be_estimated_is_not_measured(profile: DeviceProfile, p50: Percentile | None) -> None:
    found = energy(NoSource("there is no battery"), [], profile, p50)
    assert (found.kind, found.joules_per_inference) == ("not measured", None)
    assert "there is no battery" in found.why


def test_a_meter_that_fails_is_never_replaced_by_an_estimate() -> None:
    found = energy(SOURCE, [recording(level(0.0), level(0.0))], BOARD, P50)
    assert (found.kind, found.joules_per_inference) == ("not measured", None)


def test_a_meter_goes_before_an_estimate() -> None:
    assert energy(SOURCE, [recording(level(6.0))], BOARD, P50).kind == "measured"


def test_the_sentence_says_what_it_is() -> None:
    assert "20 mJ per inference" in sentence(measured(SOURCE, [recording(level(6.0))]))
    assert "measured, 2 W of idle subtracted (hwmon: power1 of ina226)" in sentence(
        measured(SOURCE, [recording(level(6.0))])
    )
    assert "estimated" in sentence(estimated(BOARD, P50, 1, "no meter"))
    assert sentence(estimated(PROFILE, P50, 1, "no meter")).startswith("energy: not measured (no meter")
