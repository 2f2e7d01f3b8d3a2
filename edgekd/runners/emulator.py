"""An ARM processor in software (qemu-user): programs run over a small root folder, on the kernel of this machine.

Its outputs are a device's; its times are not, and its memory contains the emulator.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgekd.cache import cache_dir, made
from edgekd.config import nearest
from edgekd.device import DeviceProfile
from edgekd.errors import DependencyError, UsageError
from edgekd.runners.connection import Connection
from edgekd.runners.local import LocalConnection
from edgekd.runners.sysroot import entry, host_architecture, unpack, unpacked

PACKAGE = "qemu-user-static"
ROOT_PACKAGES = ("libstdc++6",)
"""What every root holds: the C and C++ libraries."""
PROGRAMS = {"aarch64": "qemu-aarch64", "armv7": "qemu-arm"}
HIDDEN = ("hwmon", "power_supply", "powercap", "thermal")
"""Sensors of this machine that must not pass for the device's."""

# The runtimes read here which instructions they may use, and crash on what an x86 kernel says.
CPUINFO = """\
processor\t: 0
BogoMIPS\t: 108.00
Features\t: {features}
CPU implementer\t: 0x41
CPU architecture: {architecture}
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: {revision}

"""
FEATURES = {
    "armv7": "half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm",
    "aarch64": "fp asimd evtstrm crc32 cpuid",
}
CPUS: dict[str, tuple[str, str, int]] = {
    "cortex-a7": ("armv7", "0xc07", 5),
    "cortex-a53": ("aarch64", "0xd03", 4),
    "cortex-a72": ("aarch64", "0xd08", 3),
}
"""Architecture, part number and revision, as the kernels of boards with these processors tell them."""


@dataclass(frozen=True)
class EmulatorSettings:
    """The processor that is emulated, one of CPUS, and Debian packages that its root holds besides ROOT_PACKAGES."""

    cpu: str
    packages: tuple[str, ...] = ()

    @property
    def architecture(self) -> str:
        return CPUS[self.cpu][0]


def settings_of(profile: DeviceProfile) -> EmulatorSettings:
    """The settings in a profile; raises UsageError for a processor that is not known or of another architecture."""
    assert profile.emulator is not None
    cpu = profile.emulator.cpu
    if cpu not in CPUS:
        raise UsageError(f"{profile.title}: emulator.cpu: '{cpu}' is not known; {nearest(cpu, CPUS)}")
    if CPUS[cpu][0] != profile.architecture:
        raise UsageError(f"{profile.title}: emulator.cpu: {cpu} is {CPUS[cpu][0]}, not {profile.architecture}")
    return EmulatorSettings(cpu, profile.emulator.packages)


def prepare(settings: EmulatorSettings) -> None:
    """Fetch the emulator and make the root, where they are not there yet. Raises DependencyError."""
    made(_programs(), _fetch_programs)
    made(root(settings), lambda aside: _make_root(settings, aside))


def is_prepared(settings: EmulatorSettings) -> bool:
    return _programs().is_dir() and root(settings).is_dir()


def root(settings: EmulatorSettings) -> Path:
    """Where the root of the emulated device is, or will be."""
    return cache_dir() / "roots" / entry(settings.cpu, (*ROOT_PACKAGES, *settings.packages))


def connection(name: str, settings: EmulatorSettings, place: Path) -> LocalConnection:
    """The device over the root in `place`; absolute paths that are not in the root are this machine's."""
    program = _programs() / PROGRAMS[settings.architecture]
    prefix = (str(program), "-cpu", settings.cpu, "-U", "LD_PRELOAD", "-L", str(place))
    return LocalConnection(name, settings.architecture, cache_dir() / "emulated" / settings.cpu, prefix)


@contextmanager
def connect(profile: DeviceProfile) -> Iterator[Connection]:
    """The emulated device; raises DependencyError, with what mends it, where it is not set up."""
    settings = settings_of(profile)
    if not is_prepared(settings):
        raise DependencyError(f"{profile.title}: not set up yet; run: edgekd devices setup, with the device's name")
    device = connection(profile.title, settings, root(settings))
    try:
        yield device
    finally:
        device.close()


def _programs() -> Path:
    return cache_dir() / "tools" / "qemu-user"


def _fetch_programs(folder: Path) -> None:
    with unpacked(host_architecture(), [PACKAGE]) as place:
        folder.mkdir()
        for program in PROGRAMS.values():
            files = [place / "usr" / "bin" / name for name in (f"{program}-static", program)]
            found = next((file for file in files if file.is_file()), None)
            if found is None:
                raise DependencyError(f"Debian's {PACKAGE} has no {program} in this release; use Debian 12")
            found.rename(folder / program)


def _make_root(settings: EmulatorSettings, folder: Path) -> None:
    unpack(settings.architecture, (*ROOT_PACKAGES, *settings.packages), folder)
    architecture, part, revision = CPUS[settings.cpu]
    number = 7 if architecture == "armv7" else 8
    text = CPUINFO.format(features=FEATURES[architecture], architecture=number, part=part, revision=revision)
    (folder / "proc").mkdir(exist_ok=True)
    (folder / "proc" / "cpuinfo").write_text(text)
    for name in HIDDEN:
        (folder / "sys" / "class" / name).mkdir(parents=True, exist_ok=True)
