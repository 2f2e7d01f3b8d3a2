"""This machine as a device: files below a folder, programs as processes."""

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edgekd.device import DeviceProfile
from edgekd.errors import DeviceError
from edgekd.runners.local import LocalConnection, connect
from edgekd.runners.streams import LINE_LIMIT
from tests.runners.conftest import HERE

PYTHON = (sys.executable, "-ISc")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[LocalConnection]:
    connection = LocalConnection("this machine", HERE, tmp_path / "home")
    try:
        yield connection
    finally:
        connection.close()


def refused(error: pytest.ExceptionInfo[DeviceError]) -> str:
    message = str(error.value)
    assert error.value.exit_code == 6
    assert message.startswith("this machine: ")
    assert len(message.splitlines()) == 1
    return message


def test_files_go_there_and_back(machine: LocalConnection, tmp_path: Path) -> None:
    source = tmp_path / "mo;del 'x'\n.tflite"
    source.write_bytes(bytes(range(256)) * 999)
    source.chmod(0o755)
    there = f"{machine.home}/a/b/model"
    assert machine.size(there) is None
    machine.push(source, there)
    assert machine.size(there) == 256 * 999
    assert Path(there).stat().st_mode & 0o777 == 0o700
    assert Path(machine.home).stat().st_mode & 0o777 == 0o700
    machine.move(there, f"{machine.home}/c/model")
    assert machine.size(there) is None
    machine.pull(f"{machine.home}/c/model", tmp_path / "back", 256 * 999)
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


def test_a_file_that_is_longer_than_announced_is_not_kept(machine: LocalConnection, tmp_path: Path) -> None:
    with pytest.raises(DeviceError) as caught:
        machine.pull("/dev/zero", tmp_path / "back", 100_000)
    assert "100000" in refused(caught)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_or_read_is_told(
    machine: LocalConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")
    with pytest.raises(DeviceError) as caught:
        machine.push(source, f"{source}/below/a/file")
    assert "cannot be written" in refused(caught)
    with pytest.raises(DeviceError) as caught:
        machine.pull(f"{machine.home}/absent", tmp_path / "back", 1)
    assert "No such file" in refused(caught)

    def full(source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(DeviceError) as caught:
        machine.push(source, f"{machine.home}/model")
    assert "No space left" in refused(caught)
    assert machine.size(f"{machine.home}/model") is None


def test_arguments_and_environment_arrive_as_they_are(machine: LocalConnection) -> None:
    word = "a b'c\"d;$(e)\n*"
    process = machine.start(
        [*PYTHON, "import sys, os; print(ascii((sys.argv[1], os.environ['X'])))", word], {"X": word}
    )
    assert list(process.lines(10)) == [ascii((word, word)).encode()]
    assert process.wait() == 0


def test_a_prefix_stands_before_every_program(tmp_path: Path) -> None:
    connection = LocalConnection("emulated", HERE, tmp_path, prefix=("/usr/bin/env", "WORD=hello"))
    assert list(connection.start(["/bin/sh", "-c", "echo $WORD"]).lines(10)) == [b"hello"]
    connection.close()


def test_lines_go_on_where_they_were_left(machine: LocalConnection) -> None:
    process = machine.start([*PYTHON, "print('a\\nb\\nc', end='')"])
    assert next(process.lines(10)) == b"a"
    assert list(process.lines(10)) == [b"b", b"c"]
    assert list(process.lines(10)) == []


def test_a_line_without_end_is_given_up_on(machine: LocalConnection) -> None:
    process = machine.start([*PYTHON, "import sys\nwhile True: sys.stdout.write('x' * 65536)"])
    with pytest.raises(DeviceError) as caught:
        next(process.lines(60))
    assert "end of line" in refused(caught)
    assert int(str(caught.value).split()[4]) <= LINE_LIMIT + (1 << 17)


def test_silence_is_given_up_on(machine: LocalConnection) -> None:
    """Bytes that come all the time are no line."""
    process = machine.start([*PYTHON, "import time\nwhile True: print(end='x', flush=True); time.sleep(0.01)"])
    with pytest.raises(DeviceError) as caught:
        next(process.lines(0.3))
    assert "no answer" in refused(caught)


def test_input_ends_when_it_is_ended_and_errors_are_kept_in_part(machine: LocalConnection) -> None:
    program = "import sys; sys.stdin.read(); sys.stderr.write('x' * 999999 + '\\x1b[2J the end'); sys.exit(3)"
    process = machine.start([*PYTHON, program])
    process.end_input()
    assert list(process.lines(10)) == []
    assert process.wait() == 3
    assert process.errors().endswith(" [2J the end")
    assert len(process.errors()) <= 4096


def test_nothing_of_it_runs_on(machine: LocalConnection) -> None:
    program = (
        "import subprocess, time; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); time.sleep(600)"
    )
    killed, closed = machine.start([*PYTHON, program]), machine.start([*PYTHON, program])
    children = [psutil.Process(int(next(process.lines(10)))) for process in (killed, closed)]
    killed.kill()
    assert killed.wait() < 0
    machine.close()
    assert [child for child in psutil.wait_procs(children, timeout=10)[1] if child.status() != "zombie"] == []


def test_a_program_that_is_none_is_told(machine: LocalConnection, tmp_path: Path) -> None:
    foreign = tmp_path / "agent"
    foreign.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(57))
    foreign.chmod(0o755)
    for program in (foreign, tmp_path / "absent"):
        with pytest.raises(DeviceError) as caught:
            machine.start([str(program)])
        assert "cannot be started" in refused(caught)


def test_its_files_lie_below_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path))
    with connect(DeviceProfile(title="This machine", runner="local", timing="measured")) as connection:
        assert Path(connection.home).parent == tmp_path
        assert connection.architecture == HERE
