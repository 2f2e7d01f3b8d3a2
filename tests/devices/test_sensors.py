"""What a board's own sensors make of a measurement: energy, state, and reasons not to trust it.

Four boards behind ssh are measured at the same time; a sensor of each changes while the model runs.
"""

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.devices.arm_root import ArmRoot, arm_root
from tests.devices.conftest import Commands, finished
from tests.runners.sshd import Keys

FREQUENCY = "/sys/devices/system/cpu/cpu{}/cpufreq/scaling_cur_freq"
POWER = "/sys/class/hwmon/hwmon3/power1_input"
CURRENT = "/sys/class/power_supply/BAT0/current_now"
MONITOR = {"/sys/class/hwmon/hwmon3/name": "ina226\n", POWER: "1500000\n"}
STATE = {
    "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    FREQUENCY.format(0): "1800000\n",
    FREQUENCY.format(1): "600000\n",
    "/sys/class/thermal/thermal_zone0/temp": "48500\n",
    "/sys/class/thermal/thermal_zone1/temp": "51000\n",
    "/sys/class/power_supply/BAT0/type": "Battery\n",
    "/sys/class/power_supply/BAT0/status": "Discharging\n",
    "/sys/class/power_supply/BAT0/capacity": "81\n",
    "/sys/class/power_supply/BAT0/voltage_now": "3800000\n",
    CURRENT: "-300000\n",
}
LOOK_SECONDS = 0.01
IN_WARMUP, IN_RUNS = 10.25, 15.0
"""Seconds from a model's answers on, with ten of them idle."""


@dataclass(frozen=True)
class Case:
    """A board's sensors, and the one that changes in every run, so many seconds after the model has answered.

    value: what it then is; None: it vanishes. attempts: the most that are made.
    """

    sensors: dict[str, str]
    protocol: str
    sensor: str
    value: str | None
    seconds: float = 0.0
    attempts: int = 1


CASES = {
    "monitor": Case(STATE | MONITOR, "quick", POWER, "4000000\n", IN_WARMUP),
    "battery": Case(STATE, "quick", CURRENT, "-800000\n", IN_WARMUP),
    "vanishing": Case(MONITOR, "quick", POWER, None, IN_RUNS),
    "slowed": Case(STATE, "brief", FREQUENCY.format(0), "600000\n", attempts=3),
}


@dataclass(frozen=True)
class Seen:
    """What a command said, and how long every run took."""

    code: int
    stderr: str
    document: dict[str, Any]
    runs_ns: np.ndarray


@pytest.fixture(scope="module")
def seen(
    tmp_path_factory: pytest.TempPathFactory, keys: Keys, edgekd: Commands, tflite_file: Path
) -> Iterator[Callable[[str], Seen]]:
    """What came of a case, as soon as it has ended."""
    processes, samples = {}, {}
    with contextlib.ExitStack() as stack:
        over = threading.Event()
        for name, case in CASES.items():
            folder = tmp_path_factory.mktemp(name)
            board = stack.enter_context(arm_root(folder, keys, case.sensors))
            hand = threading.Thread(target=move, args=(board, case, over))
            hand.start()
            stack.callback(hand.join)
            stack.callback(over.set)
            samples[name] = folder / "runs.npy"
            words = ("--device", board.profile, "--protocol", case.protocol, "--samples", samples[name], "--json")
            limit = f"from edgekd.bench import measurement\nmeasurement.ATTEMPTS = {case.attempts}"
            processes[name] = edgekd.start("bench", tflite_file, *words, code=limit)
            stack.callback(processes[name].kill)

        @functools.cache
        def look(name: str) -> Seen:
            run = finished(processes[name])
            assert run.code in (0, 7), run.stderr
            return Seen(run.code, run.stderr, run.document, np.load(samples[name]))

        yield look


def move(board: ArmRoot, case: Case, over: threading.Event) -> None:
    """Set the sensor of a case for each job that comes, and change it in the job's time."""
    sensor, job, answered = board.place / case.sensor.lstrip("/"), 0, 0
    while not over.wait(LOOK_SECONDS):
        for folder in board.held():
            if written(folder / "job.txt") > job:
                job = written(folder / "job.txt")
                replace(sensor, case.sensors[case.sensor])
            if written(folder / "out0-0.bin") > max(job, answered):
                answered = written(folder / "out0-0.bin")
                over.wait(case.seconds - (time.time() - answered / 1e9))
                replace(sensor, case.value)


def written(file: Path) -> int:
    """When a file was written, in nanoseconds; 0 if it is not there."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def replace(sensor: Path, value: str | None) -> None:
    """There is never half a number in a sensor's file."""
    if value is None:
        sensor.unlink()
    else:
        aside = sensor.with_name("aside")
        aside.write_text(value)
        aside.replace(sensor)


@pytest.mark.parametrize(
    ("name", "idle", "active", "source"),
    [("monitor", 1.5, 4.0, "hwmon: power1_input of ina226"), ("battery", 1.14, 3.04, "battery: the battery BAT0")],
)
def test_energy_is_measured(name: str, idle: float, active: float, source: str, seen: Callable[[str], Seen]) -> None:
    found = seen(name)
    energy = found.document["energy"]
    assert (energy["kind"], energy["source"], energy["why"]) == ("measured", source, "")
    assert energy["idle_watts"] == pytest.approx(idle, rel=0.05)
    assert energy["active_watts"] == pytest.approx(active, rel=0.05)
    joules = energy["joules_per_inference"]
    assert joules["low"] <= joules["value"] <= joules["high"]
    assert joules["value"] == pytest.approx((active - idle) * found.runs_ns.mean() / 1e9, rel=0.1)


def test_a_sensor_that_vanishes_half_way(seen: Callable[[str], Seen]) -> None:
    found = seen("vanishing").document["energy"]
    assert (found["kind"], found["joules_per_inference"]) == ("not measured", None)
    seconds = float(found["why"].removeprefix(f"the sensor {POWER} vanished after ").removesuffix(" s"))
    assert seconds == pytest.approx(IN_RUNS, abs=1.0)


def test_the_state_is_that_of_the_board(seen: Callable[[str], Seen]) -> None:
    document = seen("monitor").document
    before, after = document["state_before"], document["state_after"]
    for state in (before, after):
        assert state["governor"] == "performance"
        assert state["frequency_khz"] == [1_800_000, 600_000]
        assert state["temperature_millicelsius"] == [48_500, 51_000]
        assert state["battery"] == {
            "capacity": 81,
            "current_now": -300_000,
            "voltage_now": 3_800_000,
            "status": "Discharging",
        }
    assert "sensors" not in document["machine"]


def test_a_frequency_that_falls_makes_it_not_valid(seen: Callable[[str], Seen]) -> None:
    found = seen("slowed")
    reason = "the processor went from 1.80 to 0.60 GHz; it throttles: cool it, or wait"
    assert found.code == 7
    assert found.stderr == f"edgekd: not valid: {reason}\n"
    assert (found.document["valid"], found.document["why_not_valid"]) == (False, reason)
    assert found.document["attempts"] == CASES["slowed"].attempts
    assert found.document["state_before"]["frequency_khz"] == [1_800_000, 600_000]
    assert found.document["state_after"]["frequency_khz"] == [600_000, 600_000]
    assert found.document["outputs"]["alike"]
    assert "use a longer protocol" in found.document["energy"]["why"]
