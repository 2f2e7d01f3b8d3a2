"""Work on a device from the first word to the last: the agent is put there, a folder is held, and is gone at the end.

On the device, below edgekd's own folder: `agent/<digest>` and `lib/<digest>/` are put there once and kept, `run/` holds
a folder for each session, which whoever comes next removes if its session broke off, and `lock` is held by the job
that runs.
"""

import hashlib
import importlib
import itertools
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from edgekd.dependencies import require
from edgekd.device import DeviceProfile
from edgekd.errors import DeviceError
from edgekd.runners.connection import Connection, Process
from edgekd.runners.events import (
    Description,
    Held,
    ModelOutcome,
    Outcome,
    Rates,
    Swept,
    one_event,
    parse_events,
)
from edgekd.runners.job import Job, JobModel
from edgekd.runners.streams import printable

T = TypeVar("T")
Libraries = Callable[[str, str], tuple[Path, ...]]

RUNNERS = {
    "local": "edgekd.runners.local",
    "emulator": "edgekd.runners.emulator",
    "board": "edgekd.runners.board",
    "ssh": "edgekd.runners.ssh",
}
PACKAGES = {"ssh": ("paramiko",), "board": ("paramiko",)}
"""What a runner needs beyond edgekd's own packages; the extra `devices` brings it."""
SUFFIXES = (".tflite", ".onnx", ".ort", ".xml")
WEIGHTS = {".xml": ".bin"}
"""The second file of a model, by the suffix of its first."""
LOCK = "../../lock"
ANSWER_SECONDS = 60.0
"""How long the agent may take for what it does at once, on the slowest of devices."""
QUEUE_SECONDS = 3600.0
"""How long another job may have the device before we give up."""
PATIENCE_SECONDS = 1800.0
"""How long a job may take beyond the seconds that it asks for: loading, all samples, and runs that it needs."""
CANNOT_EXECUTE = (126, 127)


@dataclass(frozen=True)
class ModelFiles:
    """A model on this machine, for the device. outputs: where each of its outputs is to be put, or none.

    runtime: ai-edge-litert, onnxruntime, openvino or tflite-runtime.
    inputs: raw bytes of N samples for each input, or none.
    """

    runtime: str
    model: Path
    inputs: tuple[Path, ...] = ()
    outputs: tuple[Path, ...] = ()


class DeviceSession:
    """A device with the agent on it and a folder that is ours."""

    def __init__(
        self, connection: Connection, agent: str, folder: str, description: Description, libraries: Libraries
    ) -> None:
        self.name, self.architecture, self.description = connection.name, connection.architecture, description
        self._connection, self._agent, self._folder = connection, agent, folder
        self._find_libraries = libraries
        self._libraries: dict[str, tuple[str, str]] = {}
        self._there: dict[str, tuple[Path, int, int]] = {}

    def run(self, job: Job, files: Sequence[ModelFiles]) -> Outcome:
        """Run one model, or two in turns, as `job` says; its models and lock are filled in here.

        What was pushed for an earlier run and did not change since is not pushed again. Raises DeviceError for
        whatever goes wrong, with no output left behind.
        """
        models = tuple(self._push_model(number, one) for number, one in enumerate(files))
        text = replace(job, models=models, lock=LOCK).text()
        with tempfile.TemporaryDirectory(prefix="edgekd-") as place:
            order = Path(place) / "job.txt"
            order.write_text(text)
            self._connection.push(order, f"{self._folder}/job.txt")
        folders = dict.fromkeys(f"{self._connection.home}/{self._library(one.runtime)[0]}" for one in files)
        process = self._connection.start(
            [self._agent, "run", f"{self._folder}/job.txt"], {"LD_LIBRARY_PATH": ":".join(folders)}
        )
        where = f"{self.name}: {' against '.join(printable(one.model.name) for one in files)}"
        seconds = job.idle_seconds + job.warmup_seconds * len(files) + job.seconds + PATIENCE_SECONDS
        read = partial(parse_events, models=len(files), sensors=len(job.samples), where=where)
        outcome = _told(self._connection, process, read, _job_lines(process, seconds, where))
        for number, (one, seen) in enumerate(zip(files, outcome.models, strict=True)):
            self._pull_outputs(number, one, seen)
        return outcome

    def rates(self, seconds: float) -> Rates:
        """What one core reaches; the device should have nothing else to do."""
        command = [self._agent, "rates", f"{seconds:g}"]
        return _answer(self._connection, command, Rates, PATIENCE_SECONDS + seconds)

    def _push_model(self, number: int, files: ModelFiles) -> JobModel:
        suffix = files.model.suffix if files.model.suffix in SUFFIXES else ""
        model = f"model{number}{suffix}"
        self._push(files.model, model)
        if suffix in WEIGHTS and (weights := files.model.with_suffix(WEIGHTS[suffix])).is_file():
            self._push(weights, f"model{number}{WEIGHTS[suffix]}")
        inputs = tuple(f"in{number}-{position}.bin" for position in range(len(files.inputs)))
        for source, name in zip(files.inputs, inputs, strict=True):
            self._push(source, name)
        outputs = tuple(_output(number, position) for position in range(len(files.outputs)))
        library = "/".join(("../..", *self._library(files.runtime)))
        return JobModel(model, files.runtime, library, inputs, outputs)

    def _push(self, source: Path, name: str) -> None:
        try:
            status = source.stat()
        except OSError as error:
            raise DeviceError(f"{source}: cannot be read: {error.strerror}; see what became of it") from None
        state = source, status.st_size, status.st_mtime_ns
        if self._there.get(name) != state:
            self._there.pop(name, None)
            self._connection.push(source, f"{self._folder}/{name}")
            self._there[name] = state

    def _pull_outputs(self, number: int, files: ModelFiles, seen: ModelOutcome) -> None:
        if not files.outputs:
            return
        samples = files.inputs[0].stat().st_size // max(1, seen.inputs[0].bytes) if files.inputs and seen.inputs else 1
        if len(seen.outputs) != len(files.outputs) or seen.samples != samples:
            raise DeviceError(
                f"{self.name}: {files.model}: {len(files.outputs)} outputs of {samples} samples were asked for, and "
                f"{len(seen.outputs)} of {seen.samples} came; see what the model's inputs and outputs are"
            )
        for position, (tensor, target) in enumerate(zip(seen.outputs, files.outputs, strict=True)):
            name, expected = _output(number, position), tensor.bytes * samples
            self._connection.pull(f"{self._folder}/{name}", target, expected)
            if (size := target.stat().st_size) != expected:
                target.unlink()
                raise DeviceError(f"{self.name}: {name} has {size} bytes, not {expected}; run it again")

    def _library(self, runtime: str) -> tuple[str, str]:
        """The folder of a runtime's libraries below edgekd's own on the device, and the one to open; put there once."""
        if runtime not in self._libraries:
            files = self._find_libraries(runtime, self._connection.architecture)
            folder = f"lib/{_digest(files)}"
            for file in files:
                target = f"{self._connection.home}/{folder}/{file.name}"
                if self._connection.size(target) != file.stat().st_size:
                    self._connection.push(file, f"{self._folder}/push.bin")
                    self._connection.move(f"{self._folder}/push.bin", target)
            self._libraries[runtime] = folder, files[0].name
        return self._libraries[runtime]


@contextmanager
def session(profile: DeviceProfile) -> Iterator[DeviceSession]:
    """The device of a profile, ready for jobs; on the way out nothing of the session is left on it.

    Raises DeviceError if it cannot be reached, DependencyError if something is missing here.
    """
    from edgekd.runners.agent import build_agent
    from edgekd.runners.libraries import libraries

    require(PACKAGES.get(profile.runner, ()), ["devices"])
    connect: Callable[[DeviceProfile], AbstractContextManager[Connection]]
    connect = importlib.import_module(RUNNERS[profile.runner]).connect
    with connect(profile) as connection:
        with hold(connection, build_agent(connection.architecture), libraries) as held:
            yield held


@contextmanager
def hold(connection: Connection, agent: Path, libraries: Libraries) -> Iterator[DeviceSession]:
    """A folder of our own on a device that is reached, with the agent put there, until the way out.

    agent: the program of this machine for the device's architecture. libraries: as `edgekd.runners.libraries` has it.
    """
    program = _put_agent(connection, agent)
    description = _answer(connection, [program, "describe"], Description)
    parent = f"{connection.home}/run"
    _answer(connection, [program, "sweep", parent], Swept)
    folder = f"{parent}/{secrets.token_hex(8)}"
    holder = connection.start([program, "hold", folder])
    try:
        first = itertools.islice(holder.lines(ANSWER_SECONDS), 1)
        one_event(first, Held, connection.name)
        yield DeviceSession(connection, program, folder, description, libraries)
    except BaseException:
        with suppress(DeviceError):
            _release(connection, holder)
        raise
    _release(connection, holder)


def _release(connection: Connection, holder: Process) -> None:
    """End the holding, which removes the folder."""
    holder.end_input()
    if next(holder.lines(ANSWER_SECONDS), None) is not None or holder.wait() != 0:
        raise DeviceError(f"{connection.name}: the folder of this run could not be removed; the next run does it")


def _put_agent(connection: Connection, agent: Path) -> str:
    """The agent's path on the device. It is pushed into a folder that is swept, and renamed when it is whole."""
    target = f"{connection.home}/agent/{_digest([agent])}"
    size = agent.stat().st_size
    if connection.size(target) != size:
        aside = f"{connection.home}/run/{secrets.token_hex(8)}/agent"
        try:
            connection.push(agent, aside)
            connection.move(aside, target)
        except DeviceError:
            # A session that began at the same moment may have swept the folder; then it has put the agent there.
            if connection.size(target) != size:
                raise
    return target


def _answer(connection: Connection, command: list[str], kind: type[T], seconds: float = ANSWER_SECONDS) -> T:
    """The one event that a command of the agent tells."""
    process = connection.start(command)
    return _told(connection, process, lambda lines: one_event(lines, kind, connection.name), process.lines(seconds))


def _told(connection: Connection, process: Process, parse: Callable[[Iterator[bytes]], T], lines: Iterator[bytes]) -> T:
    """What a program of the agent told, once it has ended as it should."""
    try:
        first = next(lines, None)
        if first is None:
            raise _without_a_word(connection, process)
        told = parse(itertools.chain([first], lines))
        if (status := process.wait()) != 0:
            raise DeviceError(f"{connection.name}: the agent ended with {status}; {process.errors() or 'try again'}")
    except BaseException:
        process.kill()
        raise
    return told


def _without_a_word(connection: Connection, process: Process) -> DeviceError:
    status, errors = process.wait(), process.errors()
    if status in CANNOT_EXECUTE:
        return DeviceError(
            f"{connection.name}: the agent for {connection.architecture} cannot be executed there "
            f"({errors or status}); see that the profile's architecture is the device's"
        )
    reason = "was killed" if status < 0 or status > 128 else f"ended with {status}"
    return DeviceError(
        f"{connection.name}: the agent {reason} without a word; {errors or 'see how much memory is free'}"
    )


def _job_lines(process: Process, seconds: float, where: str) -> Iterator[bytes]:
    """A job's lines: as long as it is queued, and then for so many seconds in all."""
    line = next(process.lines(QUEUE_SECONDS), None)
    if line is not None and b'"waiting"' in line:
        yield line
        line = next(process.lines(QUEUE_SECONDS), None)
    end = time.monotonic() + seconds
    while line is not None:
        yield line
        if (left := end - time.monotonic()) <= 0:
            raise DeviceError(f"{where}: the job is not done after {seconds:.0f} s; ask for less, or see what disturbs")
        line = next(process.lines(left), None)


def _output(number: int, position: int) -> str:
    return f"out{number}-{position}.bin"


def _digest(files: Sequence[Path]) -> str:
    """Of the names and contents of files, in order: what a folder of them is called."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(file.name.encode() + b"\0" + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:12]
