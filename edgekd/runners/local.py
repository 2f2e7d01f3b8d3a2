"""This machine as a device: every measurement in a fresh process."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from edgekd.errors import DeviceError, UsageError

CPU_FREQUENCY = Path("/sys/devices/system/cpu/cpu0/cpufreq")
SLACK_SECONDS = 120.0
MEASURABLE = ("ai-edge-litert", "onnxruntime", "openvino")
"""Runtimes whose speed on this machine means something."""


def require(runtime: str) -> None:
    """Raise DeviceError for a runtime that cannot be measured here."""
    if runtime == "coreml":
        raise DeviceError("Core ML runs on Apple devices only; leave the device out, or name one of Apple's")
    if runtime not in MEASURABLE:
        raise DeviceError(f"{runtime} is not measured on this machine; leave the device out, or name the board")


def describe() -> dict[str, Any]:
    """What this machine is: CPU, cores, memory in bytes."""
    return {"cpu": _cpu_model(), "cores": psutil.cpu_count(), "memory_bytes": psutil.virtual_memory().total}


def state() -> dict[str, Any]:
    """What can change between two measurements; None where this machine does not tell."""
    sensors = _sensor("sensors_temperatures") or {}
    temperatures = [reading.current for readings in sensors.values() for reading in readings]
    frequency, battery = _sensor("cpu_freq"), _sensor("sensors_battery")
    return {
        "governor": _read(CPU_FREQUENCY / "scaling_governor"),
        "frequency_mhz": frequency.current if frequency else None,
        "temperature_c": max(temperatures, default=None),
        "battery_percent": battery.percent if battery else None,
        "load_1min": os.getloadavg()[0],
    }


def harness(runtime: str) -> str:
    """The program that takes the times, and the runtime in it."""
    return f"edgekd.bench.harness (Python), {runtime} {version(runtime)}"


def run(job: dict[str, Any], folder: Path, program: str = "edgekd.bench.harness") -> dict[str, Any]:
    """Run one job of a module in a fresh process, with `folder` as its place; returns the program's result.

    Raises DeviceError if the process crashes or hangs, UsageError if the model is not one.
    """
    job_file = folder / "job.json"
    job_file.write_text(json.dumps({**job, "out": str(folder)}))
    limit = job["seconds"] + job["warmup_seconds"] + SLACK_SECONDS
    try:
        done = subprocess.run(
            [sys.executable, "-m", program, str(job_file)],
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DeviceError(f"local: the measurement of {job['model']} did not end within {limit:.0f} s") from None
    if done.returncode < 0:
        raise DeviceError(f"local: the runtime crashed on {job['model']} (signal {-done.returncode})")
    if done.returncode > 0:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise DeviceError(f"local: the measurement of {job['model']} failed: {last}")
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    if "error" in result:
        raise (UsageError if result["exit_code"] == UsageError.exit_code else DeviceError)(result["error"])
    return result


def _sensor(name: str) -> Any:
    """What psutil reads, or None where this system does not have it or its /sys lacks it."""
    try:
        return getattr(psutil, name)()
    except (AttributeError, OSError, NotImplementedError):
        return None


def _cpu_model() -> str:
    for line in (_read(Path("/proc/cpuinfo")) or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def _read(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:
        return None
