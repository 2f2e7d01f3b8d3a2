"""A device behind a real OpenSSH server: every way in which it cannot be reached, and files and programs on it."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from edgekd.device import DeviceProfile, Ssh
from edgekd.errors import DeviceError
from edgekd.runners import ssh
from edgekd.runners.connection import Connection
from tests.runners.conftest import HERE
from tests.runners.sshd import Keys, Server, serve

PYTHON = (sys.executable, "-ISc")


@contextmanager
def reached(server: Server, architecture: str = HERE, identity: Path | None = None) -> Iterator[Connection]:
    identity = identity or server.keys.user
    with ssh.connect_to("127.0.0.1", server.port, None, identity, server.known_hosts, architecture) as connection:
        yield connection


@pytest.fixture
def device(server: Server) -> Iterator[Connection]:
    with reached(server) as connection:
        yield connection


def refused(server: Server, work: Callable[[], object]) -> str:
    """The one line with which it fails."""
    with pytest.raises(DeviceError) as caught:
        work()
    message = str(caught.value)
    assert caught.value.exit_code == 6
    assert message.startswith(f"ssh {server.user}@127.0.0.1:{server.port}: ")
    assert len(message.splitlines()) == 1
    return message


def enter(server: Server, architecture: str = HERE, identity: Path | None = None) -> None:
    with reached(server, architecture, identity):
        pass


def eventually(true: Callable[[], bool]) -> bool:
    end = time.monotonic() + 10
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()


def test_files_go_there_and_back(device: Connection, server: Server, tmp_path: Path) -> None:
    source = tmp_path / "mo;del 'x'\n.tflite"
    source.write_bytes(bytes(range(256)) * 999)
    there = f"{device.home}/a/b/model"
    assert device.size(there) is None
    device.push(source, there)
    assert device.size(there) == 256 * 999
    assert (server.home / there).stat().st_mode & 0o777 == 0o600
    assert (server.home / device.home).stat().st_mode & 0o777 == 0o700
    device.push(source, f"{device.home}/c/model")
    device.move(there, f"{device.home}/c/model")
    assert device.size(there) is None
    device.pull(f"{device.home}/c/model", tmp_path / "back", 256 * 999)
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    source.chmod(0o755)
    device.push(source, there)
    assert (server.home / there).stat().st_mode & 0o777 == 0o700


def test_a_file_that_is_longer_than_announced_is_not_kept(device: Connection, server: Server, tmp_path: Path) -> None:
    assert "100000" in refused(server, lambda: device.pull("/dev/zero", tmp_path / "back", 100_000))
    assert "No such file" in refused(server, lambda: device.pull("absent", tmp_path / "back", 1))
    assert not (tmp_path / "back").exists()


def test_arguments_and_environment_arrive_as_they_are(device: Connection) -> None:
    word = "a b'c\"d;$(e)\n*"
    process = device.start([*PYTHON, "import sys, os; print(ascii((sys.argv[1], os.environ['X'])))", word], {"X": word})
    assert list(process.lines(10)) == [ascii((word, word)).encode()]
    assert process.wait() == 0


def test_lines_errors_and_status_are_told_apart(device: Connection) -> None:
    program = "import sys; sys.stdin.read(); sys.stderr.write('x' * 9999999 + ' the end'); print('a\\nb'); sys.exit(3)"
    process = device.start([*PYTHON, program])
    process.end_input()
    assert next(process.lines(10)) == b"a"
    assert list(process.lines(10)) == [b"b"]
    assert process.wait() == 3
    assert process.errors().endswith(" the end")
    assert len(process.errors()) <= 4096
    killed = device.start([*PYTHON, "import os; os.kill(os.getpid(), 9)"])
    assert list(killed.lines(10)) == []
    assert not 0 <= killed.wait() <= 128


def test_what_never_ends_a_line_is_given_up_on(device: Connection, server: Server) -> None:
    slow = device.start([*PYTHON, "import time\nwhile True: print(end='x', flush=True); time.sleep(0.01)"])
    assert "no answer" in refused(server, lambda: next(slow.lines(0.3)))
    fast = device.start([*PYTHON, "import sys\nwhile True: sys.stdout.write('x' * 65536)"])
    assert "end of line" in refused(server, lambda: next(fast.lines(60)))


def test_a_program_is_killed(device: Connection) -> None:
    process = device.start([*PYTHON, "import os, time; print(os.getpid(), flush=True); time.sleep(600)"])
    pid = int(next(process.lines(10)))
    process.kill()
    assert eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")
    process.kill()


def test_a_login_that_starts_nothing(tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with serve(tmp_path / "device", keys, before="echo This account is not available; exit 1") as server:
        assert "account is not available" in refused(server, lambda: enter(server))


def test_a_device_that_is_off(server: Server) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        with pytest.raises(DeviceError, match="is the device on") as caught:
            with ssh.connect_to("127.0.0.1", port, "pi", server.keys.user, server.known_hosts, HERE):
                pass
    assert str(caught.value).startswith(f"ssh pi@127.0.0.1:{port}: ")
    assert len(str(caught.value).splitlines()) == 1


def test_a_port_where_something_else_answers(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            line, _ = other.accept()
            with line:
                line.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 200)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(DeviceError, match="cannot be reached") as caught:
            with ssh.connect_to("127.0.0.1", other.getsockname()[1], "pi", server.keys.user, server.known_hosts, HERE):
                pass
        thread.join()
    assert len(str(caught.value).splitlines()) == 1


def test_a_host_key_that_changed(server: Server) -> None:
    server.known_hosts.write_text(server.listed(server.keys.other_host))
    message = refused(server, lambda: enter(server))
    assert "changed" in message
    remove = message.partition("remove the old key: ")[2]
    subprocess.run(remove, shell=True, check=True, capture_output=True)
    assert "not known" in refused(server, lambda: enter(server))


def test_a_host_that_is_not_known_is_added_as_the_message_says(server: Server) -> None:
    server.known_hosts.unlink()
    message = refused(server, lambda: enter(server))
    fingerprint = subprocess.run(
        ["ssh-keygen", "-lf", f"{server.keys.host}.pub"], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    assert fingerprint in message
    subprocess.run(message.partition("add it: ")[2], shell=True, check=True, capture_output=True)
    enter(server)


def test_a_key_that_the_device_does_not_take(server: Server) -> None:
    message = refused(server, lambda: enter(server, identity=server.keys.stranger))
    assert str(server.keys.stranger) in message
    assert "authorized_keys" in message


def test_a_key_that_is_none_or_locked_or_not_there(server: Server, tmp_path: Path) -> None:
    damaged, locked = tmp_path / "damaged", tmp_path / "locked"
    damaged.write_bytes(server.keys.user.read_bytes()[:100])
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "a passphrase", "-f", str(locked)]
    subprocess.run(make, check=True, stdin=subprocess.DEVNULL)
    assert "ssh-add" in refused(server, lambda: enter(server, identity=locked))
    assert str(damaged) in refused(server, lambda: enter(server, identity=damaged))
    assert "No such file" in refused(server, lambda: enter(server, identity=tmp_path / "absent"))
    nothing = ssh.connect_to("127.0.0.1", server.port, None, None, server.known_hosts, HERE)
    assert "no key" in refused(server, nothing.__enter__)


def test_a_key_of_the_ssh_agent_is_taken(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "s"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(place)], stdout=subprocess.DEVNULL)
    try:
        assert eventually(place.exists)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(place))
        subprocess.run(["ssh-add", "-q", str(server.keys.user)], check=True)
        with ssh.connect_to("127.0.0.1", server.port, None, None, server.known_hosts, HERE) as device:
            assert device.size("absent") is None
    finally:
        agent.kill()
        agent.wait()


def test_an_alias_of_the_users_own_configuration(server: Server, tmp_path: Path) -> None:
    own = Path(os.environ["HOME"]) / ".ssh"
    own.mkdir(parents=True)
    lines = (
        "Host pi",
        "HostName 127.0.0.1",
        f"Port {server.port}",
        f"IdentityFile {server.keys.user}",
        f"UserKnownHostsFile {server.known_hosts}",
        "Host far",
        "ProxyJump pi",
    )
    (own / "config").write_text("\n".join(lines) + "\n")
    profile = DeviceProfile(title="Pi", runner="ssh", timing="measured", architecture=HERE, ssh=Ssh(host="pi"))
    with ssh.connect(profile) as device:
        assert device.name == f"ssh {server.user}@127.0.0.1:{server.port}"
    with pytest.raises(DeviceError, match="proxyjump"):
        ssh.connect_to("far", 22, None, None, None, HERE).__enter__()


def test_a_device_of_another_architecture(server: Server) -> None:
    other = "armv7" if HERE == "x86_64" else "x86_64"
    assert f"its profile says {other}" in refused(server, lambda: enter(server, other))


def test_a_connection_that_is_cut_in_a_push(device: Connection, server: Server, tmp_path: Path) -> None:
    source, there = tmp_path / "source", f"{device.home}/run/x/model"
    os.mkfifo(source)

    def feed() -> None:
        with source.open("wb") as pipe:
            pipe.write(b"x" * 65536)
            pipe.flush()
            assert eventually(lambda: (server.home / there).exists() and (server.home / there).stat().st_size >= 32768)
            server.cut()
            pipe.write(b"x" * 65536)

    feeder = threading.Thread(target=feed)
    feeder.start()
    assert "connection was lost" in refused(server, lambda: device.push(source, there))
    feeder.join()


def test_a_connection_that_is_cut_in_a_program(device: Connection, server: Server) -> None:
    process = device.start([*PYTHON, "import time; print('here', flush=True); time.sleep(60)"])
    assert next(process.lines(10)) == b"here"
    server.cut()
    assert "connection was lost" in refused(server, lambda: next(process.lines(10)))
    assert "connection was lost" in refused(server, process.wait)
    assert "connection was lost" in refused(server, lambda: device.start(["true"]))
    assert "connection was lost" in refused(server, lambda: device.size("x"))
    process.kill()


def test_a_device_that_falls_silent_is_noticed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "ASK_EVERY_SECONDS", 0.1)
    monkeypatch.setattr(ssh, "PATIENCE_SECONDS", 0.5)
    with reached(server) as device:
        process = device.start([*PYTHON, "import time; print('here', flush=True); time.sleep(60)"])
        assert next(process.lines(10)) == b"here"
        time.sleep(1)
        assert device.size("absent") is None
        for session in server.sessions():
            session.send_signal(signal.SIGSTOP)
        assert "connection was lost" in refused(server, lambda: next(process.lines(60)))


def test_a_server_without_sftp(tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    without = 'case "$SSH_ORIGINAL_COMMAND" in */sftp-server) exit 127 ;; esac'
    with serve(tmp_path / "device", keys, before=without) as server, reached(server) as device:
        assert "no sftp" in refused(server, lambda: device.size("x"))
