"""What the agent tells of a device, from a tree of files like a device's own."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.agent.device import agent, environment, run_job, section, told, write_job
from tests.agent.models import difference_onnx

POWER = "/sys/class/hwmon/hwmon1/power1_input"
CURRENT = "/sys/class/hwmon/hwmon1/curr1_input"


def tree(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = folder / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


@pytest.fixture
def board(tmp_path: Path) -> Path:
    return tree(
        tmp_path / "root [1]*",
        {
            "/proc/cpuinfo": "processor\t: 0\nmodel name\t: ARMv7 Processor rev 4 (v7l)\nHardware\t: BCM2835\n",
            "/proc/meminfo": "MemTotal:         948304 kB\nMemFree:          1 kB\n",
            "/proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\x00",
            "/proc/loadavg": "0.25 0.10 0.05 1/100 4242\n",
            "/sys/class/hwmon/hwmon1/name": "ina226\n",
            POWER: "1500000\n",
            CURRENT: "300\n",
            "/sys/class/hwmon/hwmon1/curr1_label": "VDD_IN\n",
            "/sys/class/hwmon/hwmon1/temp1_input": "48000\n",
            "/sys/class/power_supply/AC/type": "Mains\n",
            "/sys/class/power_supply/BAT0/type": "Battery\n",
            "/sys/class/power_supply/BAT0/status": "Discharging\n",
            "/sys/class/power_supply/BAT0/capacity": "81\n",
            "/sys/class/power_supply/BAT0/current_now": "-412000\n",
            "/sys/class/power_supply/BAT0/voltage_now": "3850000\n",
            "/sys/class/powercap/intel-rapl:0/energy_uj": "262143999999\n",
            "/sys/class/powercap/intel-rapl:0/max_energy_range_uj": "262143328850\n",
            "/sys/class/thermal/thermal_zone0/temp": "51540\n",
            "/sys/class/thermal/thermal_zone1/temp": "no number\n",
            "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
            "/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000\n",
            "/sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "600000\n",
        },
    )


def test_a_board_is_described(board: Path) -> None:
    device = told("describe", root=board).one("device")
    assert device["machine"] == os.uname().machine
    assert device["system"] == "Linux"
    assert device["release"] == os.uname().release
    assert device["page_size"] == os.sysconf("SC_PAGE_SIZE")
    assert device["cores"] == os.sysconf("SC_NPROCESSORS_ONLN")
    assert device["cpu"] == "Raspberry Pi 4 Model B Rev 1.4"
    assert device["memory_bytes"] == 948304 * 1024
    assert device["sensors"] == {
        "/sys/class/hwmon/hwmon1/name": "ina226",
        POWER: "1500000",
        CURRENT: "300",
        "/sys/class/hwmon/hwmon1/curr1_label": "VDD_IN",
        "/sys/class/power_supply/AC/type": "Mains",
        "/sys/class/power_supply/BAT0/type": "Battery",
        "/sys/class/power_supply/BAT0/status": "Discharging",
        "/sys/class/power_supply/BAT0/capacity": "81",
        "/sys/class/power_supply/BAT0/current_now": "-412000",
        "/sys/class/power_supply/BAT0/voltage_now": "3850000",
        "/sys/class/powercap/intel-rapl:0/energy_uj": "262143999999",
        "/sys/class/powercap/intel-rapl:0/max_energy_range_uj": "262143328850",
    }


def test_a_machine_without_sensors_is_described(tmp_path: Path) -> None:
    device = told("describe", root=tmp_path).one("device")
    assert (device["cpu"], device["memory_bytes"], device["sensors"]) == (None, None, {})
    part = tree(tmp_path, {"/proc/cpuinfo": "CPU implementer\t: 0x41\nCPU part\t: 0xd08\n"})
    assert told("describe", root=part).one("device")["cpu"] == "ARM part 0xd08"


def test_labels_of_any_bytes_are_told_as_text(tmp_path: Path) -> None:
    name = "/sys/class/hwmon/hwmon0/name"
    tree(tmp_path, {name: ""})
    (tmp_path / name.lstrip("/")).write_bytes(b'a "b" \\ \xff\x01\x7f \xc3\xa9\nsecond line')
    assert told("describe", root=tmp_path).one("device")["sensors"] == {name: 'a "b" \\ \ufffd\x01\x7f \xe9'}


def test_the_state_is_told_before_and_after(board: Path, tmp_path: Path) -> None:
    told = run_job(tmp_path, section("onnxruntime", difference_onnx(tmp_path)), root=board)
    state = {
        "event": "state",
        "governor": "ondemand",
        "frequency_khz": [1500000, 600000],
        "temperature_millicelsius": [51540],
        "battery": {"capacity": 81, "current_now": -412000, "voltage_now": 3850000, "status": "Discharging"},
        "load1": 0.25,
    }
    assert told.of("state") == [state | {"when": "before"}, state | {"when": "after"}]


def test_sensors_are_read_at_a_pace_while_idle_and_active(board: Path, tmp_path: Path) -> None:
    model = f"sample {POWER}\nsample {CURRENT}\n{section('onnxruntime', difference_onnx(tmp_path))}"
    told = run_job(tmp_path, model, root=board, seconds=0.3, idle_seconds=0.3, warmup_seconds=0.2, sample_ms=10)
    assert told.of("power_lost") == []
    phases = {event["name"]: (event["start_ns"], event["end_ns"]) for event in told.of("phase")}
    for sensor, value in ((0, 1500000), (1, 300)):
        read = [event for event in told.of("power") if event["sensor"] == sensor]
        assert {event["value"] for event in read} == {value}
        times = [event["time_ns"] for event in read]
        assert times == sorted(times)
        within = {name: sum(start <= at <= end for at in times) for name, (start, end) in phases.items()}
        assert within["warmup"] == 0
        assert within["idle"] + within["active"] == len(times)
        for name in ("idle", "active"):
            assert 3 <= within[name] <= (phases[name][1] - phases[name][0]) / 10e6 + 1


def test_a_sensor_that_vanishes_is_told_once_and_the_run_goes_on(board: Path, tmp_path: Path) -> None:
    model = f"sample {POWER}\nsample {CURRENT}\n{section('onnxruntime', difference_onnx(tmp_path))}"
    job = write_job(tmp_path, model, idle_seconds=0.6, sample_ms=5)
    with subprocess.Popen([str(agent()), "run", str(job)], stdout=subprocess.PIPE, env=environment(board)) as running:
        assert running.stdout is not None
        events = []
        while not events or events[-1]["event"] != "outputs":
            events.append(json.loads(running.stdout.readline()))
        time.sleep(0.2)
        (board / POWER.lstrip("/")).unlink()
        events += [json.loads(line) for line in running.stdout]
    assert running.returncode == 0
    assert events[-1]["event"] == "end"
    (lost,) = [event for event in events if event["event"] == "power_lost"]
    assert lost["sensor"] == 0
    read = [[event["time_ns"] for event in events if event.get("sensor") == number] for number in (0, 1)]
    assert max(read[0]) == lost["time_ns"]
    assert max(read[1]) > lost["time_ns"]
    assert len(read[0]) > 3


def test_a_sensor_that_is_not_there_or_tells_no_number_is_lost_at_once(board: Path, tmp_path: Path) -> None:
    for path in ("/sys/class/hwmon/hwmon9/power1_input", "/sys/class/hwmon/hwmon1/name"):
        lines = f"sample {path}\n{section('onnxruntime', difference_onnx(tmp_path))}"
        told = run_job(tmp_path, lines, root=board, idle_seconds=0.05)
        assert told.code == 0
        assert told.of("power") == []
        assert told.one("power_lost")["sensor"] == 0


def test_one_cores_rates_are_measured() -> None:
    rates = told("rates", "0.3").one("rates")
    assert 1e8 < rates["bandwidth_bytes_per_s"] < 1e12
    assert 1e8 < rates["float32_flops_per_s"] < 1e12
    assert rates["float32_flops_per_s"] < rates["int8_ops_per_s"] < 1e13  # a register holds four times as many
