"""Which source is taken."""

import pytest

from edgekd.bench.power import find_source
from edgekd.device import PowerFigures
from tests.bench.power import test_battery, test_hwmon, test_rapl
from tests.bench.power.test_hwmon import found, why

RAPL = test_rapl.zone("intel-rapl:0", "package-0")
EVERYTHING = test_hwmon.INA226 | RAPL | test_battery.sensors()


def test_they_are_found_by_themselves() -> None:
    assert found(find_source(EVERYTHING)).name == "hwmon"
    assert found(find_source(RAPL | test_battery.sensors())).name == "rapl"
    assert found(find_source(test_battery.sensors())).name == "battery"
    assert found(find_source(test_hwmon.JETSON | RAPL)).name == "rapl"


@pytest.mark.parametrize("name", ["hwmon", "rapl", "battery"])
def test_the_one_that_is_named_is_taken(name: str) -> None:
    assert found(find_source(EVERYTHING, PowerFigures(source=name))).name == name  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["hwmon", "rapl", "battery"])
def test_the_one_that_is_named_is_not_replaced_by_another(name: str) -> None:
    others = {
        path: text
        for path, text in EVERYTHING.items()
        if {"hwmon": "hwmon", "rapl": "powercap"}.get(name, "power_supply") not in path
    }
    assert why(find_source(others, PowerFigures(source=name)))  # type: ignore[arg-type]


def test_without_any_every_reason_is_told() -> None:
    message = why(find_source({}))
    assert all(word in message for word in ("hwmon", "RAPL", "battery"))
