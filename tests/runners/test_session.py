"""Work on a device from the first word to the last, over real ssh and here; whatever breaks, nothing is left there."""

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgekd.errors import DeviceError
from edgekd.runners import ssh
from edgekd.runners.events import Outcome
from edgekd.runners.job import Job
from edgekd.runners.local import LocalConnection
from edgekd.runners.session import DeviceSession, ModelFiles, hold
from tests.runners.conftest import HERE
from tests.runners.sshd import Keys, Server, serve

JOB = Job(runs=2)
NEXT_SECONDS = 10.0


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "libraries"
    folder.mkdir()
    (folder / "libRuntime.so").write_bytes(b"runtime")
    (folder / "libHelper.so").write_bytes(b"helper")
    return folder / "libRuntime.so"


@contextmanager
def held(server: Server, agent: Path, library: Path | None = None) -> Iterator[DeviceSession]:
    """A session over ssh."""
    with ssh.connect_to("127.0.0.1", server.port, None, server.keys.user, server.known_hosts, HERE) as connection:
        with hold(connection, agent, finder(library)) as session:
            yield session


def finder(library: Path | None) -> Callable[[str, str], tuple[Path, ...]]:
    def find(runtime: str, architecture: str) -> tuple[Path, ...]:
        assert architecture == HERE
        if library is None:
            raise DeviceError(f"{runtime} has no library for {architecture}; name another device")
        return library, library.with_name("libHelper.so")

    return find


def model_of(tmp_path: Path, behaviour: str = "", name: str = "model.tflite") -> ModelFiles:
    """A model that makes the stand-in behave so, with two samples to feed it and a place for the output."""
    model, samples = tmp_path / name, tmp_path / "samples.bin"
    model.write_bytes(behaviour.encode())
    samples.write_bytes(bytes(range(8)))
    return ModelFiles("ai-edge-litert", model, (samples,), (tmp_path / "output.bin",))


def folders(server: Server) -> list[Path]:
    """What sessions have left on the device."""
    run = server.home / ".edgekd" / "run"
    return [path for path in run.iterdir() if path.is_dir()] if run.is_dir() else []


def eventually(true: Callable[[], bool]) -> bool:
    end = time.monotonic() + NEXT_SECONDS
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()


def refused(work: Callable[[], object]) -> str:
    """The one line with which it fails."""
    with pytest.raises(DeviceError) as caught:
        work()
    assert caught.value.exit_code == 6
    assert len(str(caught.value).splitlines()) == 1
    assert "; " in str(caught.value) or "the agent says" in str(caught.value)
    return str(caught.value)


def run_once(server: Server, agent: Path, library: Path | None, files: ModelFiles) -> Outcome:
    with held(server, agent, library) as session:
        return session.run(JOB, [files])


def works_again(server: Server, agent: Path, library: Path, tmp_path: Path) -> None:
    """The next contact succeeds, and after it nothing is left there of any session."""
    files = model_of(tmp_path)
    files.outputs[0].unlink(missing_ok=True)
    run_once(server, agent, library, files)
    assert files.outputs[0].read_bytes() == bytes(range(7, -1, -1))
    assert folders(server) == []


def test_a_job_is_run_and_its_outputs_come_back(
    server: Server, fake_agent: Path, library: Path, tmp_path: Path
) -> None:
    files = model_of(tmp_path)
    with held(server, fake_agent, library) as session:
        assert session.description.system == "Linux"
        outcome = session.run(JOB, [files])
        assert len(folders(server)) == 1
    assert outcome.models[0].ns.tolist() == [1000, 1001]
    assert outcome.models[0].samples == 2
    assert files.outputs[0].read_bytes() == bytes(range(7, -1, -1))
    assert folders(server) == []


def test_agent_and_libraries_are_put_there_once_and_mended_when_cut_short(
    server: Server, fake_agent: Path, library: Path, tmp_path: Path
) -> None:
    home, files = server.home / ".edgekd", model_of(tmp_path)

    def kept() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for part in ("agent", "lib") for path in (home / part).rglob("*.*")} | {
            path: path.stat().st_ino for path in (home / "agent").iterdir()
        }

    run_once(server, fake_agent, library, files)
    first = kept()
    assert {path.name for path in first} >= {"libRuntime.so", "libHelper.so"}
    run_once(server, fake_agent, library, files)
    assert kept() == first
    for path in first:
        path.write_bytes(path.read_bytes()[:3])
    works_again(server, fake_agent, library, tmp_path)
    assert kept().keys() == first.keys()
    library.write_bytes(b"another")
    works_again(server, fake_agent, library, tmp_path)
    assert len(kept()) == len(first) + 2


def test_a_file_that_did_not_change_is_pushed_once(
    server: Server, fake_agent: Path, library: Path, tmp_path: Path
) -> None:
    files = model_of(tmp_path)
    with held(server, fake_agent, library) as session:
        session.run(JOB, [files])
        (folder,) = folders(server)
        pushed = (folder / "in0-0.bin").stat().st_mtime_ns
        session.run(JOB, [files])
        assert (folder / "in0-0.bin").stat().st_mtime_ns == pushed
        files.inputs[0].write_bytes(bytes(12))
        assert session.run(JOB, [files]).models[0].samples == 3
    assert files.outputs[0].read_bytes() == bytes(12)


def test_a_model_of_any_name_simply_works(server: Server, fake_agent: Path, library: Path, tmp_path: Path) -> None:
    files = model_of(tmp_path, name="a b'c\"d; touch owned;$(touch owned)\n`touch owned`.tflite")
    run_once(server, fake_agent, library, files)
    assert files.outputs[0].exists()
    assert not list(tmp_path.rglob("owned"))


def test_this_machine_is_a_device_too(fake_agent: Path, library: Path, tmp_path: Path) -> None:
    files = model_of(tmp_path)
    connection = LocalConnection("this machine", HERE, tmp_path / "device")
    with hold(connection, fake_agent, finder(library)) as session:
        session.run(JOB, [files])
    connection.close()
    assert files.outputs[0].read_bytes() == bytes(range(7, -1, -1))
    assert not [path for path in (tmp_path / "device" / "run").iterdir() if path.is_dir()]


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("killed", "broke off"),
        ("garbage", "Segmentation fault"),
        ("no newline", "end of line"),
        ("endless", "more than"),
    ],
)
def test_an_agent_that_misbehaves(
    behaviour: str,
    said: str,
    server: Server,
    fake_agent: Path,
    library: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgekd.runners.events.RUNS_LIMIT", 1 << 20)
    files = model_of(tmp_path, behaviour)
    message = refused(lambda: run_once(server, fake_agent, library, files))
    assert message.startswith(f"ssh {server.user}@127.0.0.1:{server.port}: ")
    assert said in message
    assert not files.outputs[0].exists()
    assert folders(server) == []
    assert eventually(lambda: not running(server))
    works_again(server, fake_agent, library, tmp_path)


def test_an_agent_that_is_killed_in_the_middle_of_a_run(
    server: Server, fake_agent: Path, library: Path, tmp_path: Path
) -> None:
    with stopped(server), ThreadPoolExecutor() as pool:
        run = pool.submit(run_once, server, fake_agent, library, model_of(tmp_path))
        for process in in_a_run(server):
            process.kill()
        assert "broke off" in refused(run.result)
    assert folders(server) == []
    works_again(server, fake_agent, library, tmp_path)


def test_an_agent_that_is_killed_while_it_holds_the_folder(
    server: Server, fake_agent: Path, library: Path, tmp_path: Path
) -> None:
    def work() -> None:
        with held(server, fake_agent, library):
            for process in running(server, "hold"):
                process.kill()

    assert "could not be removed" in refused(work)
    assert len(folders(server)) == 1
    works_again(server, fake_agent, library, tmp_path)


def test_a_connection_that_is_cut_in_the_middle_of_a_run(
    server: Server, fake_agent: Path, library: Path, tmp_path: Path
) -> None:
    files = model_of(tmp_path)
    with stopped(server), ThreadPoolExecutor() as pool:
        run = pool.submit(run_once, server, fake_agent, library, files)
        assert in_a_run(server)
        server.cut()
        assert "connection was lost" in refused(run.result)
        assert eventually(lambda: folders(server) == [])
    assert not files.outputs[0].exists()
    works_again(server, fake_agent, library, tmp_path)


def test_a_connection_that_is_cut_in_the_middle_of_a_push(
    server: Server, fake_agent: Path, library: Path, tmp_path: Path
) -> None:
    """First of a model, then of the agent itself, where only the next contact can clean up."""
    files = model_of(tmp_path)
    files.model.unlink()
    cut_while_reading(server, files.model, lambda: run_once(server, fake_agent, library, files))
    assert eventually(lambda: folders(server) == [])
    shutil.rmtree(server.home / ".edgekd")
    agent = tmp_path / "agent"
    agent.write_bytes(fake_agent.read_bytes() + b"#" * (64 << 20))
    with ThreadPoolExecutor() as pool:
        run = pool.submit(run_once, server, agent, library, model_of(tmp_path, name="other"))
        assert eventually(lambda: any(path.stat().st_size for path in (server.home / ".edgekd").rglob("agent")))
        server.cut()
        assert "connection was lost" in refused(run.result)
    assert len(folders(server)) == 1
    works_again(server, fake_agent, library, tmp_path)


def test_a_device_without_space(tmp_path: Path, keys: Keys, fake_agent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be longer than 16 KiB there; where a file system can be mounted, it is really full."""
    monkeypatch.setenv("HOME", str(tmp_path))
    library = tmp_path / "libRuntime.so"
    library.write_bytes(b"x" * (1 << 20))
    library.with_name("libHelper.so").write_bytes(b"x")
    with ExitStack() as stack:
        limited = "trap '' XFSZ; ulimit -f 16"
        server = stack.enter_context(serve(tmp_path / "device", keys, before=limited))
        files, agent = model_of(tmp_path), tmp_path / "agent"
        agent.write_bytes(fake_agent.read_bytes() + b"#" * (1 << 20))
        assert "cannot be written" in refused(lambda: run_once(server, agent, library, files))
        assert not [path for path in server.home.rglob("*") if path.is_file()]
        assert "cannot be written" in refused(lambda: run_once(server, fake_agent, library, files))
        assert folders(server) == []
        assert not list(server.home.rglob("*.so"))
        other = stack.enter_context(serve(tmp_path / "full", keys))
        if mounted(stack, other.home):
            assert "no space left" in refused(lambda: run_once(other, fake_agent, library, files))
            assert folders(other) == []
            library.write_bytes(b"small")
            works_again(other, fake_agent, library, tmp_path)


def test_a_device_that_cannot_execute_the_agent(
    server: Server, fake_agent: Path, library: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(57))
    foreign.chmod(0o755)
    message = refused(lambda: run_once(server, foreign, library, model_of(tmp_path)))
    assert "cannot be executed" in message
    assert HERE in message
    works_again(server, fake_agent, library, tmp_path)


def test_a_runtime_that_the_device_has_not(server: Server, fake_agent: Path, library: Path, tmp_path: Path) -> None:
    """Neither for its architecture, nor, although we put it there, at the moment of the run."""
    assert "no library" in refused(lambda: run_once(server, fake_agent, None, model_of(tmp_path)))
    assert folders(server) == []
    with held(server, fake_agent, library) as session:
        session.run(JOB, [model_of(tmp_path)])
        shutil.rmtree(server.home / ".edgekd" / "lib")
        assert "cannot open shared object" in refused(lambda: session.run(JOB, [model_of(tmp_path)]))
    assert folders(server) == []
    works_again(server, fake_agent, library, tmp_path)


def test_two_runs_at_once_are_queued(server: Server, fake_agent: Path, library: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    with stopped(server) as go, ThreadPoolExecutor() as pool:
        first = pool.submit(run_once, server, fake_agent, library, model_of(one))
        assert in_a_run(server)
        second = pool.submit(run_once, server, fake_agent, library, model_of(other))
        assert eventually((server.home / ".edgekd" / "waiting").exists)
        go.touch()
        assert [first.result().waited, second.result().waited] == [False, True]
    assert folders(server) == []


def test_two_first_contacts_at_once(server: Server, fake_agent: Path, library: Path, tmp_path: Path) -> None:
    places = [tmp_path / str(number) for number in range(4)]
    for place in places:
        place.mkdir()
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(run_once, server, fake_agent, library, model_of(place)) for place in places]
        assert all(run.result().models[0].ns.size == 2 for run in runs)
    assert folders(server) == []


def test_an_agent_whose_folder_is_swept_on_its_way(fake_agent: Path, library: Path, tmp_path: Path) -> None:
    """By a session that began at the same moment, and put the agent there itself."""

    def held_at_once(connection: LocalConnection) -> None:
        with hold(connection, fake_agent, finder(library)):
            pass
        connection.close()

    class Slower(LocalConnection):
        def move(self, source: str, target: str) -> None:
            held_at_once(LocalConnection("the other", HERE, tmp_path / "device"))
            super().move(source, target)

    held_at_once(Slower("this machine", HERE, tmp_path / "device"))
    assert len(list((tmp_path / "device" / "agent").iterdir())) == 1


def test_outputs_that_are_not_what_was_announced(
    server: Server, fake_agent: Path, library: Path, tmp_path: Path
) -> None:
    files = model_of(tmp_path)
    more = ModelFiles("ai-edge-litert", files.model, files.inputs, (*files.outputs, tmp_path / "second.bin"))
    assert "outputs" in refused(lambda: run_once(server, fake_agent, library, more))
    files.inputs[0].write_bytes(bytes(9))
    assert "announced" in refused(lambda: run_once(server, fake_agent, library, files))
    assert not files.outputs[0].exists()
    assert folders(server) == []


def test_an_interrupt_leaves_nothing(server: Server, fake_agent: Path, library: Path) -> None:
    def work() -> None:
        with held(server, fake_agent, library):
            assert len(folders(server)) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert folders(server) == []


@contextmanager
def stopped(server: Server) -> Iterator[Path]:
    """Runs stay in their middle until the file is touched, or the block ends."""
    home = server.home / ".edgekd"
    home.mkdir(exist_ok=True)
    (home / "stop").touch()
    try:
        yield home / "go"
    finally:
        (home / "stop").unlink()


def running(server: Server, command: str = "") -> list[psutil.Process]:
    """The agent's processes on the device."""
    found = []
    for process in psutil.process_iter():
        try:
            inside = process.cwd() == str(server.home)
            if inside and command in [*process.cmdline()[-2:], ""] and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def in_a_run(server: Server) -> list[psutil.Process]:
    """The one that does a job, once it is in the middle of it."""
    assert eventually(lambda: any((folder / "running").exists() for folder in folders(server)))
    return running(server, "run")


def cut_while_reading(server: Server, source: Path, work: Callable[[], Any]) -> None:
    """Cut the connection when a part of `source`, a file that is made here, has come to the device."""
    os.mkfifo(source)

    def feed() -> None:
        with source.open("wb") as pipe:
            pipe.write(b"x" * 65536)
            pipe.flush()
            assert eventually(
                lambda: any(path.stat().st_size >= 32768 for folder in folders(server) for path in folder.iterdir())
            )
            server.cut()
            pipe.write(b"x" * 65536)

    feeder = threading.Thread(target=feed)
    feeder.start()
    assert "connection was lost" in refused(work)
    feeder.join()
    source.unlink()


def mounted(stack: ExitStack, folder: Path) -> bool:
    """Whether a file system of half a megabyte could be mounted there, until the stack is left."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k,mode=0700", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        return False
    stack.callback(subprocess.run, ["umount", "-l", str(folder)], check=True)
    return True
