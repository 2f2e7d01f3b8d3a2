"""Folders of Debian packages for any architecture, unpacked without root rights and without a trace on the host.

apt-get works on a state of its own inside the cache; the host's list of sources, its keys and its proxy are used.
"""

import hashlib
import platform
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from edgekd.cache import cache_dir, made
from edgekd.errors import DependencyError
from edgekd.runners.connection import MACHINES

DEBIAN = {"x86_64": "amd64", "aarch64": "arm64", "armv7": "armhf"}
"""What Debian calls the architectures."""
TOOLS = ("apt-get", "dpkg-deb")
MERGED = ("bin", "lib", "lib64", "sbin")
"""Folders that newer releases keep in /usr, where the root has links to them."""

# Nothing that the host hooked to its own apt may run here, and no architecture but one is looked at.
CONFIGURATION = """\
#clear APT::Architectures;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "2";
Debug::NoLocking "true";
Dir::State "{state}";
Dir::State::lists "{state}/lists";
Dir::State::status "{state}/status";
Dir::Cache "{state}";
Dir::Cache::archives "{archives}";
Dir::Log "{state}";
"""


def host_architecture() -> str:
    """The architecture of this machine; raises DependencyError where nothing is prepared for it."""
    machine = platform.machine()
    for architecture, machines in MACHINES.items():
        if machine in machines:
            return architecture
    raise DependencyError(f"nothing is built for this machine, {machine}; known: {', '.join(MACHINES)}")


def sysroot(architecture: str, packages: Sequence[str]) -> Path:
    """A folder with these packages and all they depend on, unpacked once. Raises DependencyError as `unpack` does."""
    return made(_home(architecture, packages), lambda aside: unpack(architecture, packages, aside))


def is_there(architecture: str, packages: Sequence[str]) -> bool:
    """Whether `sysroot` has nothing left to fetch."""
    return _home(architecture, packages).is_dir()


def unpack(architecture: str, packages: Sequence[str], folder: Path) -> None:
    """Fetch these packages and all they depend on, and unpack them into the new `folder`.

    What was fetched is kept until all of it is unpacked, so that a broken fetch goes on where it stopped.
    Raises DependencyError where apt-get or dpkg-deb is missing, or the packages cannot be fetched or unpacked.
    """
    if absent := [tool for tool in TOOLS if shutil.which(tool) is None]:
        raise DependencyError(
            f"{' and '.join(absent)} not found: emulated devices are made of Debian's packages; "
            "use Debian, or a real device over ssh"
        )
    archives = cache_dir() / "apt" / f"{entry(architecture, packages)}.debs"
    _fetch(architecture, packages, archives)
    folder.mkdir()
    for archive in sorted(archives.glob("*.deb")):
        failed, reason = _run(["dpkg-deb", "--extract", str(archive), str(folder)])
        if failed:
            archive.unlink()
            raise DependencyError(f"{archive.name} cannot be unpacked: {reason}; set it up again")
    for name in MERGED:
        if (folder / "usr" / name).is_dir() and not (folder / name).exists():
            (folder / name).symlink_to(f"usr/{name}")
    shutil.rmtree(archives)


@contextmanager
def unpacked(architecture: str, packages: Sequence[str]) -> Iterator[Path]:
    """The same for a moment, to take a few files out. One process at a time may ask for the same packages."""
    folder = cache_dir() / "apt" / f"{entry(architecture, packages)}.root"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        unpack(architecture, packages, folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fetch(architecture: str, packages: Sequence[str], archives: Path) -> None:
    state = cache_dir() / "apt" / DEBIAN[architecture]
    for place in (state / "lists" / "partial", archives / "partial"):
        place.mkdir(parents=True, exist_ok=True)
    with FileLock(state / "lock"):
        (state / "status").touch()
        configuration = state / "apt.conf"
        configuration.write_text(
            CONFIGURATION.format(architecture=DEBIAN[architecture], state=state, archives=archives)
        )
        apt = ["apt-get", "--config-file", str(configuration), "--quiet=2"]
        # A source without this architecture makes `update` fail; whether the packages are there shows next.
        _, complaint = _run([*apt, "update"])
        # Of a fetch that broke off long ago, versions may be left that have been replaced since.
        _run([*apt, "autoclean"])
        failed, reason = _run([*apt, "install", "--yes", "--download-only", "--", *packages])
    if failed:
        reason += f" ({complaint})" if complaint else ""
        raise DependencyError(f"Debian's {' '.join(packages)} for {architecture} cannot be fetched: {reason}")


def _run(command: list[str]) -> tuple[bool, str]:
    """Whether a program failed, and the first line of what it complained about."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    complaints = [line[2:].strip() for line in lines if line.startswith(("E:", "W:"))]
    return done.returncode != 0, next(iter(complaints or lines), "")


def entry(label: str, packages: Sequence[str]) -> str:
    """A name in the cache for what is made of these packages."""
    return f"{label}-{hashlib.sha256(' '.join(sorted(packages)).encode()).hexdigest()[:12]}"


def _home(architecture: str, packages: Sequence[str]) -> Path:
    return cache_dir() / "sysroots" / entry(architecture, packages)
