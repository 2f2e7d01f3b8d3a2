"""Folders of runs: there as long as somebody holds them, gone afterwards whatever happened."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.agent.device import agent, told


@contextmanager
def held(folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([str(agent()), "hold", str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert json.loads(holder.stdout.readline()) == {"event": "held"}
        assert folder.is_dir()
        yield holder
        holder.kill()


def fill(folder: Path) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "file").write_bytes(b"x")
    (folder / "a" / "locked").mkdir(mode=0o500)
    (folder / "name with ' and \n").write_bytes(b"x")
    (folder / "link").symlink_to(folder.parent.parent)


def test_a_folder_is_removed_with_all_in_it_when_stdin_ends(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("kept")
    folder = tmp_path / "deep" / "run" / "one"
    with held(folder) as holder:
        assert folder.stat().st_mode & 0o777 == 0o700
        fill(folder)
        assert holder.stdin is not None
        holder.stdin.write(b"what is sent is not looked at")
        holder.stdin.close()
        assert holder.wait(10) == 0
    assert not folder.exists()
    assert outside.read_text() == "kept"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_folder_is_removed_when_the_holder_is_asked_to_end(number: signal.Signals, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "one"
    with held(folder) as holder:
        fill(folder)
        holder.send_signal(number)
        assert holder.wait(10) == 0
    assert not folder.exists()


def test_a_sweep_removes_what_nobody_holds(tmp_path: Path) -> None:
    with held(tmp_path / "run" / "alive"), held(tmp_path / "run" / "dead") as killed:
        fill(tmp_path / "run" / "alive")
        fill(tmp_path / "run" / "dead")
        killed.kill()
        killed.wait(10)
        (tmp_path / "run" / "never").mkdir()
        (tmp_path / "run" / "file").write_text("no folder")
        (tmp_path / "run" / "link").symlink_to(tmp_path)
        swept = told("sweep", str(tmp_path / "run"))
        assert (swept.code, swept.one("swept")["count"]) == (0, 2)
        names = {path.name for path in (tmp_path / "run").iterdir() if path.is_dir() and not path.is_symlink()}
        assert names == {"alive"}
        assert (tmp_path / "run" / "alive" / "a" / "b" / "file").exists()
    assert told("sweep", str(tmp_path / "run")).one("swept")["count"] == 1


def test_nothing_to_sweep_is_no_error(tmp_path: Path) -> None:
    assert told("sweep", str(tmp_path / "gone")).one("swept")["count"] == 0
    assert not (tmp_path / "gone").exists()


def test_a_folder_that_is_there_is_not_taken_over(tmp_path: Path) -> None:
    with held(tmp_path / "one"):
        second = told("hold", str(tmp_path / "one"))
        assert second.code == 1
        assert "one" in second.error
        assert (tmp_path / "one" / ".held").exists()
    (tmp_path / "file").write_text("")
    assert told("hold", str(tmp_path / "file" / "one")).code == 1


def test_sweeps_and_new_folders_do_not_race(tmp_path: Path) -> None:
    """While folders are made, sweeps run all the time; none that was said to be held may vanish."""
    parent = tmp_path / "run"
    parent.mkdir()
    end = time.monotonic() + 1.5
    sweepers = [
        subprocess.Popen(
            ["sh", "-c", 'while kill -0 $PPID; do "$0" sweep "$1" || exit 9; done', str(agent()), str(parent)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]
    made = 0
    while time.monotonic() < end:
        with held(parent / f"r{made}") as holder:
            (parent / f"r{made}" / "file").write_text("kept")
            time.sleep(0.005)
            assert (parent / f"r{made}" / "file").read_text() == "kept"
            assert holder.stdin is not None
            holder.stdin.close()
            assert holder.wait(10) == 0
        made += 1
    for sweeper in sweepers:
        assert sweeper.poll() is None
        sweeper.kill()
        sweeper.wait()
    assert made > 5
