"""A whole emulated board: it boots to ssh, its clock repeats, and it never outlives whoever started it."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgekd.config import read_config
from edgekd.device import DeviceProfile, load_device
from edgekd.errors import DependencyError, DeviceError, UsageError
from edgekd.runners import board
from edgekd.runners.board import BoardSettings
from edgekd.runners.connection import Connection
from tests.runners.peers import needed, probe

ROOT = Path(__file__).resolve().parents[2]
BOOTS = 3
END_SECONDS = 10.0
PARENT = """
import time
from edgekd.runners.board import BoardSettings, running

with running("board", BoardSettings("cortex-a72")) as board:
    print(board.port, flush=True)
    time.sleep(600)
"""
PROFILE = """
title = "mine"
runner = "board"
timing = "emulated"
architecture = "{architecture}"
[board]
cpu = "{cpu}"
packages = {packages}
"""


@pytest.fixture(scope="module", autouse=True)
def prepared() -> None:
    needed(board.prepare)


def said(connection: Connection, *argv: str) -> list[str]:
    process = connection.start(argv)
    lines = [line.decode() for line in process.lines(60.0)]
    assert process.wait() == 0, process.errors()
    return lines


def emulators() -> set[str]:
    """The processes that run the board's kernel."""
    found = set()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if str(board._home() / "kernel").encode() in (place / "cmdline").read_bytes():
                found.add(place.name)
        except OSError:
            continue
    return found


def gone(before: set[str]) -> bool:
    """Whether no board runs but those that did before, soon."""
    deadline = time.monotonic() + END_SECONDS
    while emulators() - before:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_board_boots_and_takes_files_and_programs(tmp_path: Path) -> None:
    program = probe("aarch64", tmp_path)
    before = emulators()
    with board.connect(load_device("emulated-board")) as connection:
        assert connection.architecture == "aarch64"
        connection.push(program, f"{connection.home}/it's; a probe")
        assert said(connection, f"{connection.home}/it's; a probe", "@machine", "/sys/class/net") == [
            "aarch64",
            "2 entries",
        ]
        connection.pull(f"{connection.home}/it's; a probe", tmp_path / "back", 1 << 24)
        assert len(emulators() - before) > 0
    assert (tmp_path / "back").read_bytes() == program.read_bytes()
    assert gone(before)


def test_a_clock_that_counts_instructions_repeats_from_boot_to_boot(tmp_path: Path) -> None:
    program = probe("aarch64", tmp_path)
    medians = []
    for _ in range(BOOTS):
        with board.connect(load_device("emulated-board-icount")) as connection:
            connection.push(program, "probe")
            times = sorted(int(line) for line in said(connection, "./probe", *["@loop"] * 5))
            medians.append(times[2])
    # 5 million turns of at least 4 instructions (load, multiply, add, store), 2 ns each.
    assert min(medians) > 5e6 * 4 * 2
    assert max(medians) / min(medians) < 1.005


def test_a_board_ends_with_the_block_whatever_happens_in_it() -> None:
    before = emulators()
    with pytest.raises(RuntimeError, match="inside"), board.running("board", BoardSettings("cortex-a53")):
        raise RuntimeError("inside")
    assert gone(before)


def test_a_board_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    before = emulators()
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", PARENT]
    parent = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    port = int(parent.stdout.readline())
    assert emulators() - before
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert gone(before)
    with pytest.raises(ConnectionRefusedError), socket.create_connection((board.HOST, port), timeout=5.0):
        pass


def test_a_port_that_is_taken_meanwhile_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    free = board._free_port
    with socket.socket() as rival:
        rival.bind((board.HOST, 0))
        rival.listen()
        taken = rival.getsockname()[1]
        ports = iter([taken])
        monkeypatch.setattr(board, "_free_port", lambda: next(ports, None) or free())
        with board.running("board", BoardSettings("cortex-a72")) as running:
            assert running.port != taken
            with socket.create_connection((board.HOST, running.port), timeout=30.0) as stream:
                assert stream.recv(4) == b"SSH-"


def test_a_board_that_does_not_start_says_why() -> None:
    with pytest.raises(DeviceError, match=r"board: the board ended before it was ready: .*no-such-cpu") as refused:
        with board.running("board", BoardSettings("no-such-cpu")):
            pass
    assert "\n" not in str(refused.value)


def test_a_board_that_does_not_boot_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = board._home()
    (tmp_path / "kernel").write_bytes(bytes(1 << 20))
    (tmp_path / "root.gz").symlink_to(home / "root.gz")
    monkeypatch.setattr(board, "_home", lambda: tmp_path)
    monkeypatch.setattr(board, "BOOT_SECONDS", 2.0)
    with pytest.raises(DeviceError, match="not ready within 2 s; it said last: nothing"):
        with board.running("board", BoardSettings("cortex-a72")):
            pass
    assert gone(set())


@pytest.mark.parametrize(
    ("architecture", "cpu", "packages", "reason"),
    [
        ("aarch64", "cortex-a71", [], "did you mean 'cortex-a72'"),
        ("armv7", "cortex-a72", [], "a board is aarch64, not armv7"),
        ("aarch64", "cortex-a72", ["python3"], "board.packages"),
    ],
)
def test_a_board_that_cannot_be_is_refused(architecture: str, cpu: str, packages: list[str], reason: str) -> None:
    text = PROFILE.format(architecture=architecture, cpu=cpu, packages=packages)
    with pytest.raises(UsageError, match=reason):
        board.settings_of(read_config(DeviceProfile, text, "mine.toml"))


def test_a_board_that_is_not_set_up_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path))
    with pytest.raises(DependencyError, match=r"not set up yet.*edgekd devices setup"):
        with board.running("board", BoardSettings("cortex-a72")):
            pass
