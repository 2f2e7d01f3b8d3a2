"""What can be measured where, as far as it can be told before anything is built; and what a measurement depends on."""

import dataclasses
from pathlib import Path
from typing import Any

from edgekd.artifact import sha256_of
from edgekd.bench.calibration import CALIBRATIONS, hardware_of
from edgekd.cache import cache_dir
from edgekd.device import DeviceProfile, device_label, load_device, require_host
from edgekd.errors import DependencyError, DeviceError
from edgekd.keys import digest
from edgekd.runners import host
from edgekd.runners.agent import SOURCES
from edgekd.runners.libraries import find
from edgekd.runners.session import session
from edgekd.runners.setup import is_set_up, setup_command
from edgekd.runners.sysroot import host_architecture
from edgekd.runtimes import runtime_on


def require_measurable(device: str, runtime: str) -> None:
    """Raise UsageError for a device that is not known or has no host, DeviceError if it has no such runtime."""
    profile = load_device(device)
    if runtime == "coreml":
        raise DeviceError("Core ML runs on Apple devices only; leave the device out, or name one of Apple's")
    if profile.runner == "ssh":
        require_host(device, profile)
    find(runtime, architecture_of(profile))


def require_runnable(model: Path, device: str) -> None:
    """Raise UsageError or DeviceError, as `require_measurable` does, for a file of any suffix; DependencyError if the
    device is not set up.
    """
    require_measurable(device, runtime_on(model, architecture_of(load_device(device))))
    require_ready(device)


def require_ready(device: str) -> DeviceProfile:
    """The profile of a device that can be reached, as far as this machine knows.

    Raises UsageError if it is not known or has no host, DependencyError, with the command, if it is not set up.
    """
    profile = load_device(device)
    if profile.runner == "ssh":
        require_host(device, profile)
    if not is_set_up(profile):
        raise DependencyError(f"device '{device}' is not set up yet; run: {setup_command(device)}")
    return profile


def reach(device: str) -> None:
    """Reach a device and leave it again. Raises DependencyError if it is not set up, DeviceError if it is off."""
    with session(require_ready(device)):
        pass


def architecture_of(profile: DeviceProfile) -> str:
    return profile.architecture or host_architecture()


def measured_on(device: str) -> dict[str, Any]:
    """What a measurement rests on: the device's profile and rates, this machine where it is on it, and the agent."""
    profile = load_device(device)
    sources = sorted(SOURCES.glob("*.[ch]"))
    return {
        "name": device_label(device),
        "profile": dataclasses.asdict(profile),
        "host": None if profile.runner == "ssh" else host.describe(),
        "hardware": dataclasses.asdict(hardware_of(device, profile, cache_dir() / CALIBRATIONS)),
        "agent": digest([[file.name, sha256_of(file)] for file in sources]),
    }
