import numpy as np
import pytest

from edgekd.bench.power import battery
from edgekd.bench.power.source import NoSource, Source
from tests.bench.power.test_hwmon import found, series, why

FOLDER = "/sys/class/power_supply"


def sensors(status: str = "Discharging", *kinds: str) -> dict[str, str]:
    return {
        f"{FOLDER}/AC/type": "Mains",
        f"{FOLDER}/BAT0/type": "Battery",
        f"{FOLDER}/BAT0/status": status,
        f"{FOLDER}/BAT0/capacity": "80",
        **{f"{FOLDER}/BAT0/{kind}_now": "1" for kind in kinds or ("current", "voltage", "power")},
    }


@pytest.mark.parametrize("sign", [1, -1])
def test_what_leaves_the_battery_counts_whatever_its_sign(sign: int) -> None:
    source = found(battery.find(sensors()))
    assert source.paths == (f"{FOLDER}/BAT0/current_now", f"{FOLDER}/BAT0/voltage_now")
    current = series(sign * 500_000, sign * 600_000, sign * 400_000)
    power = source.watts([current, series(4_000_000, 4_000_000, 4_000_000)], 0)
    assert power.watts.tolist() == [2.0, 2.4, 1.6]


@pytest.mark.parametrize("sign", [1, -1])
def test_what_flows_back_is_below_zero(sign: int) -> None:
    power = battery.watts([series(*(sign * value for value in (500_000, 500_000, -100_000))), series(*[4_000_000] * 3)])
    assert power.watts.tolist() == pytest.approx([2.0, 2.0, -0.4])


def test_power_is_taken_where_current_and_voltage_are_not_both_there() -> None:
    source = found(battery.find(sensors("Discharging", "voltage", "power")))
    assert source.paths == (f"{FOLDER}/BAT0/power_now",)
    assert source.watts([series(-3_000_000, -2_000_000)], 0).watts.tolist() == [3.0, 2.0]


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging", "Unknown"])
def test_a_battery_that_does_not_discharge_is_no_source(status: str) -> None:
    message = why(battery.find(sensors(status)))
    assert "BAT0" in message
    assert "unplug" in message


def test_a_battery_that_tells_nothing_is_no_source() -> None:
    assert "neither" in why(battery.find(sensors("Discharging", "voltage")))


def test_the_battery_that_discharges_is_taken() -> None:
    both = {path.replace("BAT0", "BAT1"): text for path, text in sensors().items()} | sensors("Full")
    assert found(battery.find(both)).what == "the battery BAT1"


@pytest.mark.parametrize("text", [{}, {f"{FOLDER}/AC/type": "Mains"}, {f"{FOLDER}/x/model": "Battery"}])
def test_no_battery_is_no_source(text: dict[str, str]) -> None:
    assert why(battery.find(text)) == "there is no battery"


def test_no_readings_are_no_power() -> None:
    source: Source | NoSource = battery.find(sensors())
    assert found(source).watts([series(), series()], 0).watts.tolist() == []
    assert np.sum(battery.watts([series()]).watts) == 0
