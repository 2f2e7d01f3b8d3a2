"""The command line for devices, in a cache of its own, and files to measure that edgekd did not make."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgekd.cache import cache_dir
from tests.conftest import Run
from tests.devices import models
from tests.devices.arm_root import ArmRoot, arm_root
from tests.runners.conftest import keys

__all__ = ["keys"]

ROOT = Path(__file__).resolve().parents[2]
FETCHED = ("agents", "apt", "boards", "libraries", "roots", "sysroots", "tools", "zig")
"""What is in the cache for all; the rest, such as this machine's own folder as a device, is the tests' own."""


@dataclass(frozen=True)
class Commands:
    """Runs `edgekd` in `folder`, with the cache and the store there."""

    folder: Path

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def start(self, *arguments: str | Path, code: str = "") -> "subprocess.Popen[str]":
        """code: what is run before, in the same process."""
        start = f"{code}\nfrom edgekd.cli import main\nmain()"
        places = {"PYTHONPATH": str(ROOT), "EDGEKD_CACHE": str(self.cache), "EDGEKD_STORE": str(self.store)}
        return subprocess.Popen(
            [sys.executable, "-c", start, *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, **places},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str | Path) -> Run:
        return finished(self.start(*arguments))


def finished(process: "subprocess.Popen[str]") -> Run:
    stdout, stderr = process.communicate(timeout=300)
    return Run(process.returncode, stdout, stderr)


def assert_one_line(run: Run, code: int) -> str:
    """The command ended with `code`, nothing on stdout, and one line on stderr, which is returned."""
    assert run.code == code, run.stderr
    assert run.stdout == ""
    (line,) = run.stderr.splitlines()
    assert line.startswith("edgekd: ")
    return line


@pytest.fixture(scope="session")
def edgekd(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    commands = Commands(tmp_path_factory.mktemp("devices"))
    commands.cache.mkdir()
    for name in FETCHED:
        (cache_dir() / name).mkdir(parents=True, exist_ok=True)
        (commands.cache / name).symlink_to(cache_dir() / name)
    return commands


@pytest.fixture(scope="session")
def tflite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.tflite(tmp_path_factory.mktemp("tflite"))


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.onnx(tmp_path_factory.mktemp("onnx"))


@pytest.fixture(scope="session")
def behind_ssh(tmp_path_factory: pytest.TempPathFactory, keys) -> Iterator[ArmRoot]:  # type: ignore[no-untyped-def]
    with arm_root(tmp_path_factory.mktemp("behind-ssh"), keys) as device:
        yield device
