import numpy as np
import pytest

from edgekd.bench.power import find_source, hwmon
from edgekd.bench.power.source import NoSource, Series, Source
from edgekd.device import load_device

JETSON = {
    "/sys/class/hwmon/hwmon1/name": "ina3221",
    "/sys/class/hwmon/hwmon1/in1_label": "VDD_IN",
    "/sys/class/hwmon/hwmon1/in2_label": "VDD_CPU_GPU_CV",
    "/sys/class/hwmon/hwmon1/in3_label": "VDD_SOC",
    "/sys/class/hwmon/hwmon1/in7_label": "sum of shunt voltages",
    **{f"/sys/class/hwmon/hwmon1/in{n}_input": "5000" for n in range(1, 8)},
    **{f"/sys/class/hwmon/hwmon1/curr{n}_input": "1000" for n in range(1, 5)},
}
INA226 = {
    "/sys/class/hwmon/hwmon0/name": "ina226",
    "/sys/class/hwmon/hwmon0/power1_input": "2500000",
    "/sys/class/hwmon/hwmon0/curr1_input": "500",
    "/sys/class/hwmon/hwmon0/in0_input": "1",
    "/sys/class/hwmon/hwmon0/in1_input": "5000",
}
BATTERY_MIRROR = {
    "/sys/class/hwmon/hwmon4/name": "BAT0",
    "/sys/class/hwmon/hwmon4/curr1_input": "500",
    "/sys/class/hwmon/hwmon4/in0_input": "12000",
    "/sys/class/hwmon/hwmon4/power1_input": "6000000",
}


def series(*values: int, start: int = 0, step: int = 1_000_000) -> Series:
    return Series(start + step * np.arange(len(values)), np.array(values, np.int64))


def found(source: Source | NoSource) -> Source:
    assert isinstance(source, Source), source
    return source


def why(source: Source | NoSource) -> str:
    assert isinstance(source, NoSource)
    return source.why


def test_power_is_microwatts() -> None:
    source = found(hwmon.find(INA226))
    assert source.paths == ("/sys/class/hwmon/hwmon0/power1_input",)
    assert source.watts([series(2_500_000, 0)], 0).watts.tolist() == [2.5, 0.0]


def test_without_a_power_file_it_is_current_times_the_voltage_of_the_same_number() -> None:
    sensors = {path: text for path, text in INA226.items() if "power" not in path}
    source = found(hwmon.find(sensors))
    assert source.paths == ("/sys/class/hwmon/hwmon0/curr1_input", "/sys/class/hwmon/hwmon0/in1_input")
    assert source.watts([series(500, 600), series(5000, 5000)], 0).watts.tolist() == [2.5, 3.0]


def test_current_and_voltage_are_brought_to_the_same_times() -> None:
    """1 A all the time; the voltage rises from 4 to 6 V: at the current's times it is what lies in between."""
    power = hwmon.watts([series(1000, 1000, 1000, step=10), series(4000, 6000, start=5, step=10)])
    assert power.times_ns.tolist() == [10]
    assert power.watts.tolist() == [5.0]


def test_the_jetson_s_profile_takes_the_rail_of_the_whole_module() -> None:
    source = found(find_source(JETSON, load_device("jetson-orin-nano").power))
    assert source.paths == ("/sys/class/hwmon/hwmon1/curr1_input", "/sys/class/hwmon/hwmon1/in1_input")
    assert source.what == "VDD_IN of ina3221"


def test_shunt_voltages_are_no_bus_voltages() -> None:
    """Current 4 of this chip is a sum, and voltage 4 is that of a shunt."""
    assert "curr4" not in why(hwmon.find(JETSON, chip="ina3221"))


def test_which_of_several_is_meant_has_to_be_said() -> None:
    message = why(hwmon.find(JETSON))
    assert all(label in message for label in ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"))
    assert found(hwmon.find(JETSON, label="VDD_SOC")).paths[0].endswith("curr3_input")


def test_a_label_that_is_not_there_is_answered_with_those_that_are() -> None:
    message = why(hwmon.find(JETSON, chip="ina3221", label="VDD_SYS"))
    assert "VDD_SYS of ina3221" in message
    assert "VDD_IN of ina3221" in message


def test_other_chips_are_taken_by_their_name_alone() -> None:
    assert why(hwmon.find(BATTERY_MIRROR)) == "no hwmon power sensor can be read"
    assert found(hwmon.find(BATTERY_MIRROR, chip="BAT0")).paths == ("/sys/class/hwmon/hwmon4/power1_input",)


@pytest.mark.parametrize("sensors", [{}, {"/sys/class/hwmon/hwmon0/name": "ina226"}])
def test_nothing_to_read_is_no_source(sensors: dict[str, str]) -> None:
    assert why(hwmon.find(sensors))
    assert why(hwmon.find(sensors, "ina226", "x"))


def test_no_readings_are_no_power() -> None:
    assert len(hwmon.watts([series(), series()]).watts) == 0
