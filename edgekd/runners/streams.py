"""What comes from a device, which is not trusted: a program's output as lines, files, and text made fit to print."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from edgekd.errors import DeviceError

LINE_LIMIT = 1 << 24
CHUNK = 30_000
"""Bytes in a request, which with its head fits into a packet of ssh."""
TAIL_LIMIT = 1 << 12
TEXT_LIMIT = 300


def split_lines(read: Callable[[float], bytes], pending: bytearray, timeout: float, where: str) -> Iterator[bytes]:
    """Lines without their end. `read` waits that many seconds at most: no bytes at the end, TimeoutError if none came.

    pending: bytes that were read and not yet given; the rest stays there. The last line may lack its end.
    Raises DeviceError, named by `where`, if a line is longer than 16 MiB or takes longer than `timeout` seconds.
    """
    while True:
        deadline = time.monotonic() + timeout
        searched = 0
        while (end := pending.find(b"\n", searched)) < 0:
            searched = len(pending)
            if searched > LINE_LIMIT:
                raise DeviceError(f"{where}: it printed {searched} bytes without an end of line; that is no agent's")
            try:
                chunk = read(max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise DeviceError(
                    f"{where}: no answer within {timeout:.0f} s; see what the device is busy with"
                ) from None
            if not chunk:
                if pending:
                    yield bytes(pending)
                    pending.clear()
                return
            pending += chunk
        line = bytes(pending[:end])
        del pending[: end + 1]
        yield line


def keep_tail(read: Callable[[], bytes], tail: bytearray) -> None:
    """Read to the end and keep the last 4 KiB in `tail`."""
    while chunk := read():
        tail += chunk
        del tail[:-TAIL_LIMIT]


def save(read: Callable[[int], bytes], target: Path, limit: int, what: str) -> None:
    """Write what `read` gives, so many bytes at most at a time, until it gives none; `target` is whole or not there.

    Raises DeviceError, beginning with `what`, if there are more than `limit` bytes.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as aside:
        half = Path(aside) / target.name
        with half.open("wb") as writer:
            left = limit
            while chunk := read(min(CHUNK, left + 1)):
                left -= len(chunk)
                if left < 0:
                    raise DeviceError(f"{what} is longer than the {limit} bytes announced; run it again")
                writer.write(chunk)
        half.replace(target)


def printable(text: str | bytes, limit: int = TEXT_LIMIT) -> str:
    """Text from a device as one line, without control characters, cut to `limit` characters."""
    if isinstance(text, bytes):
        text = text[: 4 * limit].decode("utf-8", "replace")
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
