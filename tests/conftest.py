"""Real builds that many tests look at, and what a skip means on CI."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

QUICK = (
    "task.augment.views=2",
    "teacher.train.epochs=3",
    "distill.train.epochs=6",
    "distill.train.checkpoint_every=10",
    "quantize.train.epochs=1",
    "quantize.calibration_samples=64",
    "measure.protocol=rapid",
    "budgets.below_teacher=20",
    "budgets.below_student=20",
)
"""Overrides that make a build of digits short; what it checks stays the same but for accuracy."""


@dataclass(frozen=True)
class Run:
    """A finished command."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        return json.loads(self.stdout)


@dataclass(frozen=True)
class Built:
    """A finished build and where it was run."""

    folder: Path
    document: dict[str, Any]

    @property
    def home(self) -> Path:
        return self.folder / "build" / self.document["recipe"]

    @property
    def target(self) -> Path:
        return self.home / "tflite-arm"


def edgekd(folder: Path, *arguments: str) -> Run:
    """Run the command line as a user would, in `folder`."""
    done = subprocess.run(
        [sys.executable, "-m", "edgekd", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    return Run(done.returncode, done.stdout, done.stderr)


def overrides(settings: tuple[str, ...]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The embedded default, built in full."""
    folder = tmp_path_factory.mktemp("digits")
    run = edgekd(folder, "build", "--recipe", "digits", "--target", "tflite-arm", "--json")
    assert run.code == 0, run.stderr
    return Built(folder, run.document)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """On CI everything can be installed, so a skipped test is a fault."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped") and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
