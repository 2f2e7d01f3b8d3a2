"""This machine as a device that the agent runs on: processes here, files below the cache."""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from edgekd.cache import cache_dir
from edgekd.device import DeviceProfile
from edgekd.errors import DeviceError
from edgekd.runners.connection import NO_ENVIRONMENT, Connection
from edgekd.runners.streams import CHUNK, TAIL_LIMIT, keep_tail, printable, save, split_lines
from edgekd.runners.sysroot import host_architecture

END_SECONDS = 30.0


class LocalProcess:
    """A program on this machine; see `edgekd.runners.connection.Process`."""

    def __init__(self, process: "subprocess.Popen[bytes]", where: str) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process, self._where = process, where
        self._input, self._output = process.stdin, process.stdout
        self._pending, self._tail = bytearray(), bytearray()
        self._poll = select.poll()
        self._poll.register(process.stdout, select.POLLIN)
        errors = process.stderr.fileno()
        self._drain = threading.Thread(target=keep_tail, args=(lambda: os.read(errors, CHUNK), self._tail), daemon=True)
        self._drain.start()

    def lines(self, timeout: float) -> Iterator[bytes]:
        return split_lines(self._read, self._pending, timeout, self._where)

    def wait(self) -> int:
        try:
            return self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise DeviceError(f"{self._where}: it did not end within {END_SECONDS:.0f} s and was killed") from None

    def end_input(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._input.close()

    def kill(self) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def errors(self) -> str:
        if self._process.poll() is not None:
            self._drain.join(1.0)
        return printable(bytes(self._tail), TAIL_LIMIT)

    def release(self) -> None:
        """Kill it if it still runs, and close its pipes."""
        self.kill()
        self.end_input()
        self._output.close()
        self._drain.join(1.0)
        if not self._drain.is_alive() and self._process.stderr is not None:
            self._process.stderr.close()

    def _read(self, timeout: float) -> bytes:
        if not self._poll.poll(timeout * 1000):
            raise TimeoutError
        return os.read(self._output.fileno(), CHUNK)


class LocalConnection:
    """This machine; see `edgekd.runners.connection.Connection`.

    home: an absolute folder. prefix: what stands before every program, such as an emulator and its options.
    """

    def __init__(self, name: str, architecture: str, home: Path, prefix: Sequence[str] = ()) -> None:
        self.name, self.architecture, self.home = name, architecture, str(home)
        self._prefix = tuple(prefix)
        self._started: list[LocalProcess] = []

    def push(self, source: Path, target: str) -> None:
        place = Path(target)
        with self._told(f"{place} cannot be written"):
            _make_folders(place)
            try:
                shutil.copyfile(source, place)
                place.chmod(0o700 if os.access(source, os.X_OK) else 0o600)
            except BaseException:
                place.unlink(missing_ok=True)
                raise

    def pull(self, source: str, target: Path, limit: int) -> None:
        with self._told(f"{source} cannot be fetched"), Path(source).open("rb") as reader:
            save(reader.read, target, limit, f"{self.name}: {source}")

    def size(self, path: str) -> int | None:
        with self._told(f"{path} cannot be looked at"):
            try:
                return Path(path).stat().st_size
            except FileNotFoundError:
                return None

    def move(self, source: str, target: str) -> None:
        with self._told(f"{source} cannot be moved to {target}"):
            _make_folders(Path(target))
            Path(source).replace(target)

    def start(self, argv: Sequence[str], environment: Mapping[str, str] = NO_ENVIRONMENT) -> LocalProcess:
        with self._told(f"{argv[0]} cannot be started"):
            process = subprocess.Popen(
                [*self._prefix, *argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        self._started.append(LocalProcess(process, self.name))
        return self._started[-1]

    def close(self) -> None:
        while self._started:
            self._started.pop().release()

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DeviceError(f"{self.name}: {what}: {error.strerror or error}") from None


def _make_folders(file: Path) -> None:
    """The folders above `file`, those that are missing for this user alone."""
    for folder in reversed(file.parents):
        folder.mkdir(mode=0o700, exist_ok=True)


@contextlib.contextmanager
def connect(profile: DeviceProfile) -> Iterator[Connection]:
    """This machine, with its files in `device` below the cache."""
    connection = LocalConnection("this machine", profile.architecture or host_architecture(), cache_dir() / "device")
    try:
        yield connection
    finally:
        connection.close()
