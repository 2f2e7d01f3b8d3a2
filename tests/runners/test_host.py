"""This machine as a device, with and without its sensors."""

import psutil
import pytest

from edgekd.runners import host


def test_a_machine_without_sensors_tells_nothing_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise FileNotFoundError(2, "No such file or directory", "/sys/class/power_supply")

    for name in ("sensors_battery", "sensors_temperatures", "cpu_freq"):
        monkeypatch.setattr(psutil, name, absent)
    state = host.state()
    assert {state[name] for name in ("battery_percent", "temperature_c", "frequency_mhz")} == {None}
    assert state["load_1min"] >= 0


def test_a_machine_says_what_it_is() -> None:
    described = host.describe()
    assert described["cores"] == psutil.cpu_count()
    assert described["memory_bytes"] == psutil.virtual_memory().total
    assert described["cpu"]
