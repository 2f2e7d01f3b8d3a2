"""Programs on an emulated ARM processor: what they see of the machine, and what of this one stays hidden."""

import shutil
from pathlib import Path

import pytest

from edgekd.config import read_config
from edgekd.device import DeviceProfile, load_device
from edgekd.errors import DependencyError, UsageError
from edgekd.runners import emulator
from edgekd.runners.connection import Connection
from edgekd.runners.emulator import EmulatorSettings
from edgekd.runners.libraries import libraries
from tests.runners.peers import lay_tree, needed, probe

NAMES = ("emulated-arm64", "emulated-armhf")
PROFILE = """
title = "mine"
runner = "emulator"
timing = "emulated"
architecture = "{architecture}"
[emulator]
cpu = "{cpu}"
"""
TREE = {
    "/sys/class/hwmon/hwmon0/name": "ina226\n",
    "/sys/class/hwmon/hwmon0/power1_input": "2500000\n",
    "/sys/class/power_supply/battery/capacity": "81\n",
    "/sys/class/thermal/thermal_zone0/temp": "48500\n",
    "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
}


def prepared(name: str) -> EmulatorSettings:
    settings = emulator.settings_of(load_device(name))
    needed(lambda: emulator.prepare(settings))
    return settings


def said(connection: Connection, program: Path, *arguments: str) -> list[str]:
    process = connection.start([str(program), *arguments])
    lines = [line.decode() for line in process.lines(30.0)]
    assert process.wait() == 0, process.errors()
    return lines


@pytest.mark.parametrize(("name", "machine", "part"), [(NAMES[0], "aarch64", "0xd08"), (NAMES[1], "armv7l", "0xc07")])
def test_programs_see_an_arm_processor(name: str, machine: str, part: str, tmp_path: Path) -> None:
    settings = prepared(name)
    program = probe(settings.architecture, tmp_path)
    with emulator.connect(load_device(name)) as connection:
        assert connection.architecture == settings.architecture
        assert said(connection, program, "@machine") == [machine]
        shutil.copyfile(emulator.root(settings) / "proc" / "cpuinfo", tmp_path / "cpuinfo")
        assert said(connection, program, "/proc/cpuinfo") == ["processor\t: 0"]
    told = dict(line.split("\t: ") for line in (tmp_path / "cpuinfo").read_text().splitlines() if "\t: " in line)
    assert told["CPU part"] == part


@pytest.mark.parametrize("name", NAMES)
def test_sensors_are_those_of_the_root_and_none_of_this_machine(name: str, tmp_path: Path) -> None:
    settings = prepared(name)
    program = probe(settings.architecture, tmp_path)
    root = tmp_path / "root"
    shutil.copytree(emulator.root(settings), root, symlinks=True)
    connection = emulator.connection("mine", settings, root)
    folders = [f"/sys/class/{folder}" for folder in emulator.HIDDEN]
    assert said(connection, program, *folders) == ["0 entries"] * len(folders)
    lay_tree(root, TREE)
    assert said(connection, program, *TREE) == [text.strip() for text in TREE.values()]
    assert said(connection, program, "/sys/class/hwmon") == ["1 entries"]
    connection.close()


def test_a_sensor_may_vanish_while_a_program_runs(tmp_path: Path) -> None:
    settings = prepared(NAMES[0])
    program = probe(settings.architecture, tmp_path)
    root = tmp_path / "root"
    shutil.copytree(emulator.root(settings), root, symlinks=True)
    lay_tree(root, TREE)
    connection = emulator.connection("mine", settings, root)
    sensor = "/sys/class/hwmon/hwmon0/power1_input"
    process = connection.start([str(program), sensor, "@wait", sensor])
    assert next(process.lines(30.0)) == b"2500000"
    (root / sensor.lstrip("/")).unlink()
    process.end_input()
    assert list(process.lines(30.0)) == [b"absent"]
    connection.close()


@pytest.mark.parametrize("runtime", ["ai-edge-litert", "onnxruntime", "openvino"])
def test_the_runtimes_load(runtime: str, tmp_path: Path) -> None:
    settings = prepared(NAMES[0])
    first, *_ = needed(lambda: libraries(runtime, settings.architecture))
    program = probe(settings.architecture, tmp_path)
    with emulator.connect(load_device(NAMES[0])) as connection:
        assert said(connection, program, "@open", str(first)) == ["opened"]


@pytest.mark.parametrize(
    ("architecture", "cpu", "reason"),
    [("aarch64", "cortex-a71", "did you mean 'cortex-a7"), ("armv7", "cortex-a72", "cortex-a72 is aarch64, not armv7")],
)
def test_a_processor_that_cannot_be_is_refused(architecture: str, cpu: str, reason: str) -> None:
    profile = read_config(DeviceProfile, PROFILE.format(architecture=architecture, cpu=cpu), "mine.toml")
    with pytest.raises(UsageError, match=reason):
        emulator.settings_of(profile)


def test_a_device_that_is_not_set_up_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path))
    with pytest.raises(DependencyError, match=r"not set up yet.*edgekd devices setup"):
        with emulator.connect(load_device(NAMES[0])):
            pass
    assert list(tmp_path.iterdir()) == []
