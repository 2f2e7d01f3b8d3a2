"""Where artifacts run: one TOML file in `devices/` a device, or a file of the user's."""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from edgekd.config import STRICT, nearest, read_text, validate
from edgekd.errors import UsageError
from edgekd.fields import Count, Positive
from edgekd.resources import DEVICES

Runner = Literal["local", "emulator", "board", "ssh"]
Timing = Literal["measured", "emulated", "estimated"]
Architecture = Literal["x86_64", "aarch64", "armv7"]

Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:@%\[\]][A-Za-z0-9_.:@%\[\]-]*$")]
"""A host or user name: nothing that a shell or ssh would take for more than a name."""
Column = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, config=STRICT)
class Ssh:
    """How to reach a device by ssh. identity: a private key; known_hosts: a file that holds the device's host key."""

    host: Word | None = None
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    user: Word | None = None
    identity: str | None = None
    known_hosts: str | None = None


@dataclass(frozen=True, config=STRICT)
class Emulator:
    """An emulated processor. cpu: as qemu calls it; packages: Debian packages that its root holds.

    icount: every instruction of a board takes 2 to this power nanoseconds, so that figures repeat.
    """

    cpu: str
    packages: tuple[str, ...] = ()
    icount: Annotated[int, Field(ge=0, le=10)] | None = None


@dataclass(frozen=True, config=STRICT)
class HardwareFigures:
    """What a device's processor could do at best, all cores together, and where each figure is from.

    A multiply-accumulate is two operations. throttles_at_celsius: the temperature at which it slows itself down.
    """

    cpu: str
    cores: Count
    frequency_hz: Positive | None = None
    memory_bandwidth_bytes_per_s: Positive | None = None
    int8_ops_per_s: Positive | None = None
    float32_flops_per_s: Positive | None = None
    throttles_at_celsius: Positive | None = None
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        figures = (self.memory_bandwidth_bytes_per_s, self.int8_ops_per_s, self.float32_flops_per_s)
        if any(figure is not None for figure in figures) and not self.sources:
            raise ValueError("sources: a figure without a source is worth nothing; say where it is from")


@dataclass(frozen=True, config=STRICT)
class Meter:
    """The columns of the file that a USB meter's program writes on this machine.

    time: seconds or milliseconds since 1970, or ISO 8601. Power is in `watts`, or is `volts` times `amps`.
    """

    file: str
    time: Column
    time_unit: Literal["s", "ms", "iso"] = "s"
    watts: Column | None = None
    volts: Column | None = None
    amps: Column | None = None

    def __post_init__(self) -> None:
        if (self.watts is None) == (self.volts is None or self.amps is None):
            raise ValueError("watts: name the column 'watts', or the two columns 'volts' and 'amps'")
        if self.watts is not None and (self.volts is not None or self.amps is not None):
            raise ValueError("watts: it leaves nothing for 'volts' and 'amps' to say; name either")


@dataclass(frozen=True, config=STRICT)
class PowerFigures:
    """Where a device's power is read, and what it draws where nothing can be read.

    source: found by itself if it is not named. chip, label: of the hwmon sensor that sees the whole device.
    idle_watts, active_watts: of the whole device, with nothing to do and with `active_cores` cores busy.
    """

    source: Literal["hwmon", "battery", "rapl", "csv"] | None = None
    chip: str | None = None
    label: str | None = None
    csv: Meter | None = None
    idle_watts: Positive | None = None
    active_watts: Positive | None = None
    active_cores: Count = 1
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.source == "csv") != (self.csv is not None):
            raise ValueError('csv: source = "csv" and the table [power.csv] belong together; give both or neither')
        if self.source != "hwmon" and (self.chip is not None or self.label is not None):
            raise ValueError('label: it chooses a hwmon sensor; set source = "hwmon" too')
        if (self.idle_watts is None) != (self.active_watts is None):
            raise ValueError("active_watts: an estimate needs idle_watts and active_watts; give both or neither")
        if self.idle_watts is None or self.active_watts is None:
            return
        if self.active_watts <= self.idle_watts:
            raise ValueError("active_watts: it must be above idle_watts")
        if not self.sources:
            raise ValueError("sources: a figure without a source is worth nothing; say where it is from")


TABLES: dict[Runner, str | None] = {"local": None, "ssh": "ssh", "emulator": "emulator", "board": "board"}
"""The table that holds a runner's own settings."""


@dataclass(frozen=True, config=STRICT)
class DeviceProfile:
    """A device, how to reach it, whether its time is real, and what is known about it."""

    title: str
    runner: Runner
    timing: Timing
    architecture: Architecture | None = None
    ssh: Ssh | None = None
    emulator: Emulator | None = None
    board: Emulator | None = None
    hardware: HardwareFigures | None = None
    power: PowerFigures | None = None

    def __post_init__(self) -> None:
        table = TABLES[self.runner]
        for name in ("ssh", "emulator", "board"):
            if getattr(self, name) is not None and name != table:
                raise ValueError(
                    f'{name}: it is not for runner = "{self.runner}"; remove the table, or change the runner'
                )
        if self.runner in ("emulator", "board"):
            if getattr(self, self.runner) is None:
                raise ValueError(f'{self.runner}: runner = "{self.runner}" needs this table; add it')
            if self.timing == "measured":
                raise ValueError("timing: what runs in an emulator is not measured; write 'emulated'")
        if self.runner != "local" and self.architecture is None:
            raise ValueError("architecture: it is missing; add x86_64, aarch64 or armv7")


Device = DeviceProfile


def device_names() -> list[str]:
    return sorted(file.stem for file in DEVICES.glob("*.toml"))


def device_label(name: str) -> str:
    """What a device is called in reports and file names: for a file, its name without the suffix.

    Raises UsageError for a file whose name is no name for a file of ours.
    """
    if not name.endswith(".toml"):
        return name
    label = Path(name).stem
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", label):
        raise UsageError(f"device '{name}': the file's name has more than letters, digits, '.', '_' and '-'; rename it")
    return label


def load_device(name: str) -> DeviceProfile:
    """Read a device by its name, or from a TOML file of the user's.

    A file may start from a device that comes along, `like = "raspberry-pi-5"`, and say only what differs.
    Raises UsageError, with the nearest name, if there is none, or if the file does not hold together.
    """
    file = Path(name) if name.endswith(".toml") else _shipped(name, f"device '{name}'")
    document = _document(file)
    if "like" in document:
        like = document.pop("like")
        if not isinstance(like, str):
            raise UsageError(f"{file}: 'like': must be a device's name, not {like!r}")
        document = _merged(_document(_shipped(like, f"{file}: 'like': device '{like}'")), document)
    return validate(DeviceProfile, document, str(file))


def require_host(name: str, profile: DeviceProfile) -> str:
    """The host that an ssh device is reached at; raises UsageError, saying what to write, if its profile has none."""
    if profile.ssh is not None and profile.ssh.host is not None:
        return profile.ssh.host
    if name.endswith(".toml"):
        raise UsageError(f"{name}: 'ssh.host' is missing; add it")
    raise UsageError(
        f"device '{name}': nothing says where yours is; write a file mine.toml with the lines "
        f'`like = "{name}"` and `ssh.host = "its name or address"`, and use --device mine.toml'
    )


def _shipped(name: str, what: str) -> Path:
    names = device_names()
    if name not in names:
        raise UsageError(f"{what} is not known; {nearest(name, names)}")
    return DEVICES / f"{name}.toml"


def _document(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(file))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file}: not valid TOML: {error}") from error


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `changes`, tables key by key."""
    merged = dict(base)
    for key, value in changes.items():
        here = merged.get(key)
        merged[key] = _merged(here, value) if isinstance(here, dict) and isinstance(value, dict) else value
    return merged
