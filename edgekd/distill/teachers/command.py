"""A program of the user's as a teacher: batches to its standard input, answers from its standard output.

It is started once and answers until its input ends. A message, both ways, is the number of its bytes as 8 bytes,
little-endian, and then a .npy array: the batch, and the outputs, shape (n, outputs). In Python:

    import io, sys
    import numpy as np

    while size := int.from_bytes(sys.stdin.buffer.read(8), "little"):
        batch = np.load(io.BytesIO(sys.stdin.buffer.read(size)))
        answer = io.BytesIO()
        np.save(answer, model(batch))
        sys.stdout.buffer.write(len(answer.getvalue()).to_bytes(8, "little") + answer.getvalue())
        sys.stdout.buffer.flush()

What it writes to its standard error is shown if it fails.
"""

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO

import numpy as np

from edgekd.distill.teacher_config import Command
from edgekd.distill.teachers.answers import Source, given_to
from edgekd.distill.teachers.npy import from_npy, largest, to_npy
from edgekd.distill.teachers.samples import Batch, Samples
from edgekd.errors import UsageError

SIZE = 8
GRACE = 5
"""Seconds that the program has to end when its input has."""


@contextlib.contextmanager
def started(config: Command, samples: Samples, name: str) -> Iterator[Source]:
    """Run the program as long as the context lasts. Raises UsageError if it cannot be started.

    Answers that are late, of another size, or no array, and a program that ends, raise UsageError for the batch.
    """
    with tempfile.TemporaryFile() as complaints, ThreadPoolExecutor(max_workers=1) as courier:
        process = _start(config, complaints, name)
        given = given_to(config.preprocess)

        def numbers(batch: Batch) -> np.ndarray:
            message, most = to_npy(np.asarray(given(batch))), largest(len(batch), len(samples.labels))
            answer = courier.submit(_exchange, process, message, most, name)
            try:
                return from_npy(answer.result(config.timeout), name)
            except TimeoutError:
                _kill(process)
                raise UsageError(
                    f"{name}: no answer to {batch} within {config.timeout:g} seconds; raise 'timeout'"
                ) from None
            except (OSError, EOFError):
                code = _ended(process)
                raise UsageError(f"{name}: it ended on {batch} with code {code}{_last_line(complaints)}") from None

        try:
            yield Source(numbers, name, config.labels, config.outputs)
        except BaseException:
            _kill(process)
            raise
        finally:
            with contextlib.suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]
            _ended(process)
            process.stdout.close()  # type: ignore[union-attr]


def _start(config: Command, complaints: IO[bytes], name: str) -> subprocess.Popen[bytes]:
    argv = [str(part) for part in config.argv]
    try:
        return subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, start_new_session=True
        )
    except (OSError, ValueError) as error:
        raise UsageError(f"{name}: {argv[0]} cannot be started ({error})") from error


def _exchange(process: subprocess.Popen[bytes], message: bytes, most: int, name: str) -> bytes:
    """One message there and one back. Raises OSError or EOFError if the program ends meanwhile."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(len(message).to_bytes(SIZE, "little") + message)
    process.stdin.flush()
    size = int.from_bytes(_read(process.stdout, SIZE), "little")
    if size > most:
        raise UsageError(f"{name}: its answer has {size} bytes, {most} are the most; does it print to its output?")
    return _read(process.stdout, size)


def _read(stream: IO[bytes], size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise EOFError
    return content


def _ended(process: subprocess.Popen[bytes]) -> int:
    """Its exit code, after a while of patience."""
    try:
        return process.wait(GRACE)
    except subprocess.TimeoutExpired:
        _kill(process)
        return process.wait()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """It, and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _last_line(complaints: IO[bytes]) -> str:
    complaints.seek(0)
    lines = [line.strip() for line in complaints.read().decode(errors="replace").splitlines() if line.strip()]
    return f": {lines[-1]}" if lines else ""
