"""The machine that edgekd runs on: what it is, and what can change on it between two measurements."""

import os
from pathlib import Path
from typing import Any

import psutil

CPU_FREQUENCY = Path("/sys/devices/system/cpu/cpu0/cpufreq")


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
