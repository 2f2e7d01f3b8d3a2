"""A device that is this machine: behind a real ssh server, or at once; with a stand-in for the agent."""

import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekd.runners.connection import MACHINES
from tests.runners.sshd import Keys, Server, make_keys, serve

HERE = next(name for name, machines in MACHINES.items() if platform.machine() in machines)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def server(tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server, and a user here who has neither an ssh agent nor files of ssh."""
    monkeypatch.setenv("HOME", str(tmp_path / "here"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with serve(tmp_path / "device", keys) as running:
        yield running


@pytest.fixture(scope="session")
def fake_agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in as a program."""
    program = tmp_path_factory.mktemp("agent") / "agent"
    source = Path(__file__).with_name("fake_agent.py").read_text()
    program.write_text(f"#!{sys.executable} -IS\n{source}")
    program.chmod(0o755)
    return program
