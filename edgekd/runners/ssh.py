"""A device reached by ssh: its host key is known beforehand, we come with a key, and nothing asks for a password."""

import contextlib
import getpass
import logging
import os
import shlex
import socket
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import paramiko
from paramiko.auth_strategy import AuthSource, AuthStrategy, InMemoryPrivateKey
from paramiko.hostkeys import InvalidHostKey

from edgekd.device import DeviceProfile
from edgekd.errors import DeviceError, first_line
from edgekd.runners.connection import MACHINES, NO_ENVIRONMENT, Connection
from edgekd.runners.streams import CHUNK, TAIL_LIMIT, keep_tail, printable, save, split_lines

HOME = ".edgekd"
PORT = 22
CONNECT_SECONDS = 15.0
END_SECONDS = 30.0
ASK_EVERY_SECONDS = 5.0
PATIENCE_SECONDS = 10.0
"""How long a device may leave the question unanswered whether it is still there."""
TELL_NUMBER = 'echo $$; exec "$@"'
"""A shell that tells its process number and becomes the program: a server need not pass signals on, so we send them."""
NUMBER_DIGITS = 10
DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
SYSTEM_KNOWN_HOSTS = Path("/etc/ssh/ssh_known_hosts")
FAILURES = (OSError, EOFError, paramiko.SSHException)

logging.getLogger("paramiko").addHandler(logging.NullHandler())


class _UnknownHostError(Exception):
    """The host shows a key that nobody vouches for."""


class _Refuse(paramiko.RejectPolicy):  # type: ignore[misc]
    """Refuses a host that is not known, and keeps its key for the message."""

    def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
        raise _UnknownHostError(f"{key.get_name()} {key.fingerprint}")


class _Keys(AuthStrategy):  # type: ignore[misc]
    """Offers private keys and nothing else: those of files, then the agent's."""

    def __init__(self, user: str, files: Sequence[Path], agent: paramiko.Agent | None) -> None:
        super().__init__(ssh_config=paramiko.SSHConfig())
        self._user, self._files, self._agent = user, files, agent
        self.tried: list[str] = []
        self.locked: list[Path] = []

    def get_sources(self) -> Iterator[AuthSource]:
        for file in self._files:
            try:
                key = paramiko.PKey.from_path(file)
            except (TypeError, paramiko.PasswordRequiredException):
                self.locked.append(file)
                continue
            except (OSError, ValueError, paramiko.SSHException, paramiko.UnknownKeyType) as error:
                self.tried.append(f"{file} ({first_line(error)})")
                continue
            self.tried.append(str(file))
            yield InMemoryPrivateKey(self._user, key)
        for key in self._agent.get_keys() if self._agent else ():
            self.tried.append(f"the agent's {key.fingerprint}")
            yield InMemoryPrivateKey(self._user, key)


class SshProcess:
    """A program on a device; see `edgekd.runners.connection.Process`."""

    def __init__(self, channel: paramiko.Channel, where: str) -> None:
        self._channel, self._where = channel, where
        self._pending, self._tail = bytearray(), bytearray()
        self._drain = threading.Thread(
            target=keep_tail, args=(lambda: channel.recv_stderr(CHUNK), self._tail), daemon=True
        )
        self._drain.start()
        first = next(self.lines(CONNECT_SECONDS), b"")
        if not first.isdigit() or len(first) > NUMBER_DIGITS:
            said = printable(first) or self.errors() or "nothing"
            channel.close()
            raise DeviceError(f"{where}: no program can be started, its shell says: {said}; mend the login there")
        self._number = int(first)

    def lines(self, timeout: float) -> Iterator[bytes]:
        return split_lines(self._read, self._pending, timeout, self._where)

    def wait(self) -> int:
        if not self._channel.status_event.wait(END_SECONDS):
            self.kill()
            raise DeviceError(f"{self._where}: it did not end within {END_SECONDS:.0f} s and was killed")
        status: int = self._channel.exit_status
        if status < 0 and not (self._channel.eof_received and self._channel.get_transport().is_active()):
            raise _lost(self._where)
        return status

    def end_input(self) -> None:
        with contextlib.suppress(*FAILURES):
            self._channel.shutdown_write()

    def kill(self) -> None:
        with contextlib.suppress(*FAILURES):
            if not self._channel.exit_status_ready():
                killer = self._channel.get_transport().open_session(timeout=CONNECT_SECONDS)
                killer.exec_command(f"kill -KILL {self._number}")
                killer.status_event.wait(CONNECT_SECONDS)
                killer.close()
            self._channel.close()

    def errors(self) -> str:
        if self._channel.exit_status_ready():
            self._drain.join(1.0)
        return printable(bytes(self._tail), TAIL_LIMIT)

    def _read(self, timeout: float) -> bytes:
        self._channel.settimeout(timeout)
        chunk: bytes = self._channel.recv(CHUNK)
        if not chunk and not self._channel.eof_received:
            raise _lost(self._where)
        return chunk


class SshConnection:
    """A device behind an open ssh connection; see `edgekd.runners.connection.Connection`."""

    def __init__(self, client: paramiko.SSHClient, name: str, architecture: str) -> None:
        self.name, self.architecture, self.home = name, architecture, HOME
        self._client = client
        self._transport = client.get_transport()
        self._files: paramiko.SFTPClient | None = None
        self._folders: set[str] = set()
        self._closing = threading.Event()
        threading.Thread(target=_watch, args=(self._transport, self._closing), daemon=True).start()

    def push(self, source: Path, target: str) -> None:
        with self._told(f"{target} cannot be written"):
            self._make_folders(target)
            with source.open("rb") as reader:
                try:
                    with self._sftp().open(target, "wb") as writer:
                        while chunk := reader.read(CHUNK):
                            writer.write(chunk)
                    self._sftp().chmod(target, 0o700 if os.access(source, os.X_OK) else 0o600)
                except FAILURES as error:
                    with contextlib.suppress(*FAILURES):
                        self._sftp().remove(target)
                    self._explain_full(target, source.stat().st_size, error)
                    raise

    def pull(self, source: str, target: Path, limit: int) -> None:
        with self._told(f"{source} cannot be fetched"), self._sftp().open(source, "rb") as reader:
            save(reader.read, target, limit, f"{self.name}: {source}")

    def size(self, path: str) -> int | None:
        with self._told(f"{path} cannot be looked at"):
            try:
                return int(self._sftp().stat(path).st_size or 0)
            except FileNotFoundError:
                return None

    def move(self, source: str, target: str) -> None:
        with self._told(f"{source} cannot be moved to {target}"):
            self._make_folders(target)
            self._sftp().posix_rename(source, target)

    def start(self, argv: Sequence[str], environment: Mapping[str, str] = NO_ENVIRONMENT) -> SshProcess:
        setting = ["env", *(f"{name}={value}" for name, value in environment.items())] if environment else []
        with self._told(f"{argv[0]} cannot be started"):
            channel = self._transport.open_session(timeout=CONNECT_SECONDS)
            channel.exec_command(shlex.join(["sh", "-c", TELL_NUMBER, "sh", *setting, *argv]))
        return SshProcess(channel, self.name)

    def close(self) -> None:
        self._closing.set()
        self._client.close()

    def _sftp(self) -> Any:
        if self._files is None:
            try:
                self._files = self._client.open_sftp()
            except (EOFError, paramiko.SSHException):
                if not self._transport.is_active():
                    raise
                raise DeviceError(
                    f"{self.name}: its ssh server has no sftp; install OpenSSH's sftp-server on the device"
                ) from None
        return self._files

    def _make_folders(self, path: str) -> None:
        """The folders above `path`, for this user alone."""
        for folder in reversed(PurePosixPath(path).parents):
            if str(folder) in (".", "/") or str(folder) in self._folders:
                continue
            try:
                self._sftp().mkdir(str(folder), 0o700)
            except OSError:
                if not stat.S_ISDIR(self._sftp().stat(str(folder)).st_mode):
                    raise
            self._folders.add(str(folder))

    def _explain_full(self, path: str, needed: int, error: Exception) -> None:
        """Raise DeviceError if it was for want of space that a file could not be written; sftp itself does not say."""
        free = None
        with contextlib.suppress(*FAILURES, DeviceError, ValueError, IndexError):
            process = self.start(["df", "-Pk", str(PurePosixPath(path).parent)])
            free = int(list(process.lines(END_SECONDS))[-1].split()[3]) * 1024
        if free is not None and free < needed:
            raise DeviceError(
                f"{self.name}: no space left for {path}: {free} bytes are free and it has {needed}; make room there"
            ) from error

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            if not self._transport.is_active() or isinstance(error, EOFError):
                raise _lost(self.name) from None
            said = error.strerror if isinstance(error, OSError) else None
            reason = printable(said or first_line(error))
            raise DeviceError(f"{self.name}: {what}: {reason}; look at the device's disk and rights") from None


@contextlib.contextmanager
def connect(profile: DeviceProfile) -> Iterator[Connection]:
    """The device of a profile; `~/.ssh/config` may say more of its host."""
    reach, architecture = profile.ssh, profile.architecture
    if reach is None or reach.host is None or architecture is None:
        raise DeviceError(
            f"{profile.title}: its profile names no host or no architecture; add ssh.host and architecture"
        )
    identity = Path(reach.identity).expanduser() if reach.identity else None
    known_hosts = Path(reach.known_hosts).expanduser() if reach.known_hosts else None
    with connect_to(reach.host, reach.port, reach.user, identity, known_hosts, architecture) as connection:
        yield connection


@contextlib.contextmanager
def connect_to(
    host: str, port: int, user: str | None, identity: Path | None, known_hosts: Path | None, architecture: str
) -> Iterator[Connection]:
    """A device at an address, or at an alias of `~/.ssh/config`, which fills in what is None, and a port of 22.

    identity: the private key; None: the usual ones, and the ssh agent's. known_hosts: the only file that is looked
    into for the host's key; None: the usual ones. Raises DeviceError if the device cannot be reached, is not the one
    that is known, or does not let us in.
    """
    alias = _alias(host)
    port = int(alias.get("port", PORT)) if port == PORT else port
    user = user or alias.get("user") or getpass.getuser()
    host = alias.get("hostname", host)
    name = f"ssh {user}@{host}:{port}"
    for option in ("proxyjump", "proxycommand"):
        if alias.get(option) not in (None, "none"):
            raise DeviceError(
                f"{name}: ~/.ssh/config goes there by {option}, which edgekd does not follow; "
                "forward a port with ssh -L and name that"
            )
    known = [known_hosts] if known_hosts else _usual_known_hosts(alias)
    files = [identity] if identity else [Path(file).expanduser() for file in alias.get("identityfile", ())]
    files = files or [file for key in DEFAULT_KEYS if (file := Path.home() / ".ssh" / key).is_file()]
    client = paramiko.SSHClient()
    try:
        agent = paramiko.Agent()
        _enter(client, host, port, _Keys(user, files, agent), known, name)
        connection = SshConnection(client, name, architecture)
        try:
            _check_machine(connection)
            yield connection
        finally:
            connection.close()
    finally:
        client.close()
        agent.close()


def _enter(client: paramiko.SSHClient, host: str, port: int, keys: _Keys, known: Sequence[Path], name: str) -> None:
    """Connect and prove who we are; every way in which that fails is told apart."""
    client.set_missing_host_key_policy(_Refuse)
    for file in known:
        try:
            if file.exists():
                client.get_host_keys().load(str(file))
        except (OSError, ValueError, InvalidHostKey) as error:
            raise DeviceError(f"{name}: {file} cannot be read as known hosts: {first_line(error)}") from None
    listed, place = (host if port == PORT else f"[{host}]:{port}"), shlex.quote(str(known[0]))
    try:
        line = socket.create_connection((host, port), CONNECT_SECONDS)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.connect(
            host,
            port,
            sock=line,
            timeout=CONNECT_SECONDS,
            banner_timeout=CONNECT_SECONDS,
            auth_timeout=CONNECT_SECONDS,
            auth_strategy=keys,
        )
    except _UnknownHostError as error:
        add = f"ssh-keyscan -p {port} {shlex.quote(host)} >> {place}"
        raise DeviceError(
            f"{name}: its host key is not known: {printable(str(error))}; if that is what the device shows itself "
            f"(ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub there), add it: {add}"
        ) from None
    except paramiko.BadHostKeyException as error:
        shown, kept = (f"{key.get_name()} {key.fingerprint}" for key in (error.key, error.expected_key))
        remove = f"ssh-keygen -f {place} -R {shlex.quote(listed)}"
        raise DeviceError(
            f"{name}: its host key changed: it shows {shown}, and {kept} is known; either this is another machine, "
            f"or it was set up anew: then remove the old key: {remove}"
        ) from None
    except paramiko.AuthenticationException:
        raise DeviceError(f"{name}: {_not_let_in(keys)}") from None
    except socket.gaierror:
        raise DeviceError(f"{name}: there is no host of that name; correct ssh.host") from None
    except FAILURES as error:
        reason = "no answer" if isinstance(error, TimeoutError) else printable(first_line(error))
        raise DeviceError(f"{name}: cannot be reached: {reason}; is the device on, and its ssh server?") from None


def _check_machine(connection: SshConnection) -> None:
    """Raise DeviceError for a device of another architecture: a shell might take its agent for a script."""
    process = connection.start(["uname", "-m"])
    machine = printable(next(process.lines(CONNECT_SECONDS), b""), 20)
    process.kill()
    if any(machine in those for those in MACHINES.values()) and machine not in MACHINES[connection.architecture]:
        raise DeviceError(
            f"{connection.name}: the device is {machine} and its profile says {connection.architecture}; "
            "correct the profile's architecture"
        )


def _not_let_in(keys: _Keys) -> str:
    if keys.locked and not keys.tried:
        return f"{keys.locked[0]} is locked by a passphrase; unlock it for the agent: ssh-add {keys.locked[0]}"
    if not keys.tried:
        return "there is no key to come with; name one with ssh.identity, or start an ssh agent"
    tried = ", ".join(keys.tried[:3])
    return f"it does not let us in with {tried}; put the public key into ~/.ssh/authorized_keys there (ssh-copy-id)"


def _alias(host: str) -> Mapping[str, Any]:
    """What `~/.ssh/config` says of a host."""
    file = Path.home() / ".ssh" / "config"
    try:
        with file.open(encoding="utf-8") as stream:
            config = paramiko.SSHConfig.from_file(stream)
        found: Mapping[str, Any] = config.lookup(host)
    except FileNotFoundError:
        return {}
    except (*FAILURES, ValueError, KeyError) as error:
        raise DeviceError(f"{file}: cannot be read for {host}: {printable(first_line(error))}") from None
    return found


def _usual_known_hosts(alias: Mapping[str, Any]) -> list[Path]:
    named = alias.get("userknownhostsfile", "~/.ssh/known_hosts").split()
    return [*(Path(file).expanduser() for file in named), SYSTEM_KNOWN_HOSTS]


def _watch(transport: paramiko.Transport, closing: threading.Event) -> None:
    """Ask every few seconds whether the device is still there, and close the connection if no answer comes."""
    while not closing.wait(ASK_EVERY_SECONDS) and transport.is_active():
        given_up = threading.Timer(PATIENCE_SECONDS, transport.close)
        given_up.daemon = True
        given_up.start()
        with contextlib.suppress(*FAILURES):
            transport.global_request("keepalive@openssh.com", wait=True)
        given_up.cancel()


def _lost(name: str) -> DeviceError:
    return DeviceError(f"{name}: the connection was lost; see that the device is on and its network up, and try again")
