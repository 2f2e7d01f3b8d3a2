import numpy as np
import pytest

from edgekd.bench.power import rapl
from edgekd.bench.power.source import Power, Series
from tests.bench.power.test_hwmon import found, series, why

FOLDER = "/sys/class/powercap"
RANGE = 262_143_328_850


def zone(folder: str, name: str, limit: str | None = str(RANGE), energy: bool = True) -> dict[str, str]:
    files = {"name": name, "max_energy_range_uj": limit, "energy_uj": "1" if energy else None}
    return {f"{FOLDER}/{folder}/{key}": text for key, text in files.items() if text is not None}


def joules(power: Power) -> float:
    return float(np.sum(np.diff(power.times_ns / 1e9) * (power.watts[1:] + power.watts[:-1]) / 2))


def test_the_package_is_taken_and_not_its_parts() -> None:
    sensors = zone("intel-rapl:0", "package-0") | zone("intel-rapl:0:0", "core") | zone("intel-rapl:1", "psys")
    source = found(rapl.find(sensors))
    assert source.paths == (f"{FOLDER}/intel-rapl:0/energy_uj",)
    assert source.what == "package-0"


def test_all_packages_are_added_up() -> None:
    source = found(rapl.find(zone("intel-rapl:0", "package-0") | zone("intel-rapl:1", "package-1")))
    assert len(source.paths) == 2
    power = source.watts([series(0, 2_000_000, step=10**9), series(5, 3_000_005, step=10**9)], 0)
    assert power.watts.tolist() == [5.0, 5.0]


def test_a_package_that_two_interfaces_show_is_taken_once() -> None:
    source = found(rapl.find(zone("intel-rapl-mmio:0", "package-0") | zone("intel-rapl:0", "package-0")))
    assert source.paths == (f"{FOLDER}/intel-rapl:0/energy_uj",)


def test_power_is_level_between_two_readings() -> None:
    power = rapl.watts([series(0, 1_000_000, 4_000_000, step=10**9)], ranges_uj=[RANGE])
    assert power.times_ns.tolist() == [0, 10**9, 10**9, 2 * 10**9]
    assert power.watts.tolist() == [1.0, 1.0, 3.0, 3.0]
    assert joules(power) == 4.0


@pytest.mark.parametrize(
    ("values", "microjoules"),
    [
        ((RANGE - 5, 3), 8),
        ((RANGE, 0), 0),
        ((RANGE, 7), 7),
        ((RANGE - 1, RANGE), 1),
        ((RANGE - 10, RANGE, 10, RANGE - 10, 0), 10 + 10 + (RANGE - 20) + 10),
    ],
)
def test_a_counter_that_starts_again_loses_nothing(values: tuple[int, ...], microjoules: int) -> None:
    power = rapl.watts([series(*values, step=10**9)], ranges_uj=[RANGE])
    assert joules(power) == pytest.approx(microjoules / 1e6, abs=1e-12 + 1e-12 * microjoules)


def test_two_readings_at_one_time_are_one() -> None:
    twice = Series(np.array([0, 10**9, 10**9, 2 * 10**9]), np.array([0, 1_000_000, 1_000_000, 2_000_000]))
    power = rapl.watts([twice], ranges_uj=[RANGE])
    assert np.isfinite(power.watts).all()
    assert joules(power) == 2.0


def test_a_counter_that_stands_still_is_no_power() -> None:
    assert not rapl.watts([series(7, 7, 7)], ranges_uj=[RANGE]).watts.any()


def test_a_counter_that_may_not_be_read_is_no_source() -> None:
    message = why(rapl.find(zone("intel-rapl:0", "package-0", energy=False)))
    assert f"{FOLDER}/intel-rapl:0/energy_uj" in message
    assert "right to read" in message


@pytest.mark.parametrize("limit", [None, "0", "many"])
def test_a_counter_without_its_range_is_no_source(limit: str | None) -> None:
    assert "wrap-around" in why(rapl.find(zone("intel-rapl:0", "package-0", limit)))


@pytest.mark.parametrize("sensors", [{}, zone("intel-rapl:0:0", "core"), zone("dtpm:0", "package-0")])
def test_no_package_is_no_source(sensors: dict[str, str]) -> None:
    assert why(rapl.find(sensors)) == "there is no RAPL package"


@pytest.mark.parametrize("values", [(), (5,)])
def test_fewer_than_two_readings_are_no_power(values: tuple[int, ...]) -> None:
    assert len(rapl.watts([series(*values)], ranges_uj=[RANGE]).watts) == 0
