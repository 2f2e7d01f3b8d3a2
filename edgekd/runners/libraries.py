"""The runtimes' shared libraries for a device's architecture, out of wheels that are pinned by SHA-256."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from edgekd.cache import cache_dir, made
from edgekd.config import STRICT, read_config, read_text
from edgekd.errors import DependencyError, DeviceError, first_line
from edgekd.resources import DEVICES

PYTHON = "3.11"
"""The Python that the wheels are for; their libraries do not need it."""


@dataclass(frozen=True, config=STRICT)
class Wheel:
    """A wheel and the files wanted out of it: first the library to open, then those it needs beside it.

    runtime: as a job of the agent and the package index call it.
    """

    runtime: str
    version: str
    architecture: Literal["x86_64", "aarch64", "armv7"]
    platform: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    files: Annotated[tuple[str, ...], Field(min_length=1)]


@dataclass(frozen=True, config=STRICT)
class Wheels:
    wheel: tuple[Wheel, ...]


def libraries(runtime: str, architecture: str) -> tuple[Path, ...]:
    """The files of `runtime` for `architecture` in one folder, the one to open first; fetched once.

    runtime: ai-edge-litert, onnxruntime, openvino or tflite-runtime.
    Raises DeviceError where the runtime has none for it, DependencyError where the wheel cannot be fetched or is not
    the pinned one.
    """
    wheel = find(runtime, architecture)
    # The names count too: another selection out of the same wheel is another entry.
    content = hashlib.sha256("\n".join((wheel.sha256, *wheel.files)).encode()).hexdigest()[:12]
    home = cache_dir() / "libraries" / f"{wheel.runtime}-{wheel.version}-{architecture}-{content}"
    made(home, lambda aside: _fetch(wheel, aside))
    return tuple(home / Path(file).name for file in wheel.files)


def runtimes(architecture: str) -> list[str]:
    """The runtimes that have libraries for `architecture`."""
    return [wheel.runtime for wheel in _wheels() if wheel.architecture == architecture]


def find(runtime: str, architecture: str) -> Wheel:
    """The pinned wheel; raises DeviceError, with the architectures that have one, where there is none."""
    wheels = [wheel for wheel in _wheels() if wheel.runtime == runtime]
    for wheel in wheels:
        if wheel.architecture == architecture:
            return wheel
    known = ", ".join(wheel.architecture for wheel in wheels) or "none"
    raise DeviceError(f"{runtime} has no library for {architecture} (it has: {known}); choose another target or device")


def unpack(archive: Path, wheel: Wheel, folder: Path) -> None:
    """Write the wheel's files, without their folders, into the new `folder`.

    Raises DependencyError, before anything is written, if the archive is not the pinned one or lacks a file.
    """
    with archive.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != wheel.sha256:
        raise DependencyError(f"{archive.name}: its SHA-256 is {found}, not {wheel.sha256}; refused, fetch it again")
    try:
        with zipfile.ZipFile(archive) as members:
            entries = [members.getinfo(file) for file in wheel.files]
            folder.mkdir()
            for entry in entries:
                with members.open(entry) as source, (folder / Path(entry.filename).name).open("wb") as target:
                    shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DependencyError(f"{archive.name}: not the wheel it should be: {first_line(error)}") from error


def _wheels() -> tuple[Wheel, ...]:
    file = DEVICES / "libraries" / "wheels.toml"
    return read_config(Wheels, read_text(file), str(file)).wheel


def _fetch(wheel: Wheel, folder: Path) -> None:
    name = f"{wheel.runtime} {wheel.version} for {wheel.architecture}"
    with tempfile.TemporaryDirectory(prefix="edgekd-") as place:
        wanted = Path(place) / "requirements.txt"
        wanted.write_text(f"{wheel.runtime}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        command += ["--require-hashes", "--only-binary=:all:", "--platform", wheel.platform, "--python-version", PYTHON]
        command += ["--implementation", "cp", "--dest", place, "--requirement", str(wanted)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        archive = next(Path(place).glob("*.whl"), None)
        if done.returncode != 0 or archive is None:
            raise DependencyError(f"{name} cannot be fetched: {_reason(done.stderr)}")
        unpack(archive, wheel, folder)


def _reason(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return next(iter(errors), lines[-1] if lines else "pip said nothing")
