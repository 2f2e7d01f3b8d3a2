"""Where artifacts run: one TOML file in `devices/` a device."""

from typing import Literal

from pydantic.dataclasses import dataclass

from edgekd.config import STRICT, nearest, read_config, read_text
from edgekd.errors import UsageError
from edgekd.resources import DEVICES


@dataclass(frozen=True, config=STRICT)
class Device:
    """A device, how to reach it, and whether its time is real."""

    title: str
    runner: Literal["local"]
    timing: Literal["measured"]


def device_names() -> list[str]:
    return sorted(file.stem for file in DEVICES.glob("*.toml"))


def load_device(name: str) -> Device:
    """Read a device by its name; raises UsageError, with the nearest name, if there is none."""
    names = device_names()
    if name not in names:
        raise UsageError(f"device '{name}' is not known; {nearest(name, names)}")
    file = DEVICES / f"{name}.toml"
    return read_config(Device, read_text(file), str(file))
