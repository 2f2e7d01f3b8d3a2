"""All that a device needs on this machine, fetched and built beforehand."""

import shlex
from collections.abc import Callable, Iterator

from edgekd.dependencies import DEVICE_PACKAGES, install_command, missing
from edgekd.device import DeviceProfile, load_device
from edgekd.runners import board, emulator
from edgekd.runners.libraries import libraries, runtimes
from edgekd.runners.sysroot import host_architecture
from edgekd.step import Progress, silent


def setup(profile: DeviceProfile, progress: Progress = silent) -> None:
    """Fetch and build what is not there yet; may be broken off and called again.

    Raises DependencyError, with what is missing, where something cannot be had.
    """
    parts = list(_parts(profile))
    for done, (note, make) in enumerate(parts):
        progress(done, len(parts), note)
        make()
    progress(len(parts), len(parts))


def is_set_up(profile: DeviceProfile) -> bool:
    """Whether the emulator of a device is there; what else is needed is fetched on the way."""
    match profile.runner:
        case "emulator":
            return emulator.is_prepared(emulator.settings_of(profile))
        case "board":
            return board.is_prepared()
        case _:
            return True


def setup_command(name: str) -> str:
    """The command that sets a device up."""
    return shlex.join(["edgekd", "devices", "setup", name])


def device_state(name: str) -> str:
    """Whether a device that comes along can be used as it is, and if not, what to do; as far as this machine knows."""
    profile = load_device(name)
    if absent := missing(DEVICE_PACKAGES):
        return f"missing {', '.join(absent)}; run: {install_command(['devices'])}"
    if profile.runner == "ssh":
        return "ready, with the host in a file of yours"
    return "ready" if is_set_up(profile) else f"not set up; run: {setup_command(name)}"


def _parts(profile: DeviceProfile) -> Iterator[tuple[str, Callable[[], object]]]:
    from edgekd.runners.agent import build_agent

    if profile.runner == "emulator":
        settings = emulator.settings_of(profile)
        yield "emulator and its root", lambda: emulator.prepare(settings)
    elif profile.runner == "board":
        board.settings_of(profile)
        yield "emulator, kernel and root", board.prepare
    architecture = profile.architecture or host_architecture()
    yield "agent", lambda: build_agent(architecture)
    for runtime in runtimes(architecture):
        yield runtime, lambda runtime=runtime: libraries(runtime, architecture)  # type: ignore[misc]
