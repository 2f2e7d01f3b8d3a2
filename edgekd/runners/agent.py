"""The program that runs models on a device, compiled from `devices/agent` for a device's architecture."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from edgekd.artifact import sha256_of
from edgekd.cache import cache_dir, made
from edgekd.dependencies import install_command
from edgekd.errors import DependencyError, DeviceError, UsageError
from edgekd.keys import digest, package_version
from edgekd.resources import DEVICES

SOURCES = DEVICES / "agent"
TARGETS = {
    "x86_64": ("x86_64-linux-gnu.2.28", ()),
    "aarch64": ("aarch64-linux-gnu.2.28", ()),
    "armv7": ("arm-linux-gnueabihf.2.28", ("-mcpu=generic+v7a+neon",)),
}
"""What ziglang calls an architecture with the oldest glibc that is served, and its instructions."""
MACHINES = {"x86_64": "x86_64", "aarch64": "aarch64", "armv7": "armv7l"}
LANGUAGE = ("-std=c11", "-O3", "-ffp-contract=fast", "-fvisibility=hidden", "-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64")
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror")
LINKED = ("-rdynamic", "-ldl", "-lpthread")
SECONDS = 600


def build_agent(architecture: str) -> Path:
    """The agent for x86_64, aarch64 or armv7, compiled once for each state of its sources and of the compiler.

    By ziglang; where it is not installed, by this machine's own compiler if the architecture is this machine's.
    Raises UsageError for another architecture, DependencyError without a compiler, DeviceError if it refuses.
    """
    if architecture not in TARGETS:
        raise UsageError(f"architecture '{architecture}' is not known; known are {', '.join(sorted(TARGETS))}")
    version, command = _compiler(architecture)
    flags = (*LANGUAGE, *WARNINGS)
    sources = sorted(SOURCES.glob("*.[ch]"))
    key = digest([architecture, version, flags, LINKED, [[file.name, sha256_of(file)] for file in sources]])
    return made(
        cache_dir() / "agents" / f"{architecture}-{key[:16]}",
        lambda aside: compile_program([*command, *flags], [file for file in sources if file.suffix == ".c"], aside),
    )


def compile_program(command: list[str], sources: list[Path], program: Path) -> None:
    """Compile and link these C files to a program. Raises DeviceError with the compiler's first error."""
    line = [*command, "-o", str(program), *map(str, sources), *LINKED]
    with tempfile.TemporaryDirectory(prefix="edgekd-") as place:
        environment = {"ZIG_GLOBAL_CACHE_DIR": str(cache_dir() / "zig"), "ZIG_LOCAL_CACHE_DIR": place}
        try:
            done = subprocess.run(
                line,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                cwd=place,
                env=os.environ | environment,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise DeviceError(f"the agent's compiler did not end within {SECONDS} s") from error
    if done.returncode != 0:
        lines = done.stderr.splitlines() or ["no reason given"]
        told = next((text for text in lines if "error" in text), lines[0])
        raise DeviceError(f"the agent could not be compiled: {told.strip()}")


def _compiler(architecture: str) -> tuple[str, list[str]]:
    """The compiler's version and its command for an architecture."""
    target, instructions = TARGETS[architecture]
    if importlib.util.find_spec("ziglang") is not None:
        command = [sys.executable, "-m", "ziglang", "cc", "-target", target, *instructions, "-s"]
        return f"ziglang {package_version('ziglang')}", command
    own = shutil.which("gcc") or shutil.which("cc")
    if own is not None and platform.machine() == MACHINES[architecture]:
        return subprocess.run([own, "--version"], capture_output=True, text=True, check=False).stdout, [own]
    raise DependencyError(f"the agent for {architecture} needs a compiler; run: {install_command(['devices'])}")
