"""What tests against real peers need: it is fetched on demand, and where that cannot be, they are skipped."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import pytest

from edgekd.errors import DependencyError

T = TypeVar("T")
TARGETS = {"aarch64": "aarch64-linux-gnu.2.28", "armv7": "arm-linux-gnueabihf.2.28"}


def needed(make: Callable[[], T]) -> T:
    """What `make` gives; the test is skipped with the reason where it cannot be had here."""
    try:
        return make()
    except DependencyError as error:
        pytest.skip(str(error))


def probe(architecture: str, folder: Path) -> Path:
    """The program of `probe.c` for a device, compiled into `folder`."""
    pytest.importorskip("ziglang")
    program = folder / f"probe-{architecture}"
    source = Path(__file__).with_name("probe.c")
    command = [sys.executable, "-m", "ziglang", "cc", "-target", TARGETS[architecture], "-O1", "-D_FILE_OFFSET_BITS=64"]
    subprocess.run([*command, "-o", str(program), str(source), "-ldl"], check=True, capture_output=True)
    return program


def lay_tree(root: Path, files: Mapping[str, str]) -> None:
    """Write files, by their absolute path on the device, into the root of an emulated one."""
    for name, text in files.items():
        file = root / name.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
