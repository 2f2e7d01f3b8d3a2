"""A real OpenSSH server on loopback, as a process of its own, for a home folder that a test owns."""

import contextlib
import getpass
import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

BINARY = "/usr/sbin/sshd"
SFTP = "/usr/lib/openssh/sftp-server"
PRIVILEGE_SEPARATION = Path("/run/sshd")
START_SECONDS = 10.0


@dataclass(frozen=True)
class Keys:
    """Key pairs, made once: the host's, another host's, the user's and a stranger's."""

    host: Path
    other_host: Path
    user: Path
    stranger: Path


@dataclass(frozen=True)
class Server:
    """A server that runs. home: where its sessions begin; known_hosts: a file that vouches for it."""

    port: int
    pid: int
    home: Path
    known_hosts: Path
    keys: Keys

    @property
    def user(self) -> str:
        return getpass.getuser()

    def listed(self, key: Path) -> str:
        """The line of known_hosts with which the server has this host key."""
        kind, value, *_ = key.with_suffix(".pub").read_text().split()
        return f"[127.0.0.1]:{self.port} {kind} {value}\n"

    def sessions(self) -> list[psutil.Process]:
        """The server's processes that serve a connection."""
        return [child for child in psutil.Process(self.pid).children(recursive=True) if child.name() == "sshd"]

    def cut(self) -> None:
        """Kill every open connection, and nothing that was started through it."""
        for process in self.sessions():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def make_keys(folder: Path) -> Keys:
    keys = Keys(*(folder / name for name in ("host", "other_host", "user", "stranger")))
    for key in (keys.host, keys.other_host, keys.user, keys.stranger):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(key)]
        subprocess.run(make, check=True, stdin=subprocess.DEVNULL)
    return keys


@contextlib.contextmanager
def serve(folder: Path, keys: Keys, before: str = "", force: str | None = None) -> Iterator[Server]:
    """Run a server whose sessions begin in `folder`/home; it ends with the block, and every session with it.

    before: a line of shell that each session runs first. force: the command to force instead of ours, which runs what
    was asked for; empty: none, so that sessions begin in the user's own home.
    """
    if not Path(BINARY).exists() or not Path(SFTP).exists():
        pytest.skip("no OpenSSH server; install it with scripts/system-packages openssh-server")
    folder.mkdir(parents=True, exist_ok=True)
    home = folder / "home"
    home.mkdir()
    if os.getuid() == 0:
        PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if force is None:
        force = str(_ours(folder, home, before))
    configuration = folder / "sshd_config"
    lines = (
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {keys.host}",
        f"AuthorizedKeysFile {keys.user}.pub",
        "StrictModes no",
        "UsePAM no",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PidFile none",
        "MaxStartups 100",
        f"Subsystem sftp {SFTP}",
        f'SetEnv "HOME={home}"',
        *([f"ForceCommand {force}"] if force else []),
    )
    configuration.write_text("\n".join(lines) + "\n")
    with (folder / "log").open("wb") as log:
        command = [BINARY, "-D", "-e", "-f", str(configuration)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    server = Server(port, process.pid, home, folder / "known_hosts", keys)
    server.known_hosts.write_text(server.listed(keys.host))
    try:
        _wait_for(process, port, folder / "log")
        yield server
    finally:
        server.cut()
        process.kill()
        process.wait()


def _ours(folder: Path, home: Path, before: str) -> Path:
    """A program that starts what was asked for in `home`."""
    script = folder / "force"
    lines = (
        "#!/bin/sh",
        f"cd {shlex.quote(str(home))} || exit 1",
        before,
        f'case "$SSH_ORIGINAL_COMMAND" in {SFTP}*) exec {SFTP} ;; esac',
        f'exec {shutil.which("sh")} -c "$SSH_ORIGINAL_COMMAND"',
    )
    script.write_text("\n".join(lines) + "\n")
    script.chmod(0o755)
    return script


def _wait_for(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0) as line:
            if line.recv(4) == b"SSH-":
                return
        assert process.poll() is None, log.read_text()
        time.sleep(0.02)
    raise AssertionError(f"the server did not start: {log.read_text()}")
