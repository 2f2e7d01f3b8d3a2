"""What every way to a device offers: files there and back, and programs run there.

Paths on the device are text. A relative one starts where the device's programs start. Whatever fails is a DeviceError
of one line that names the device.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

MACHINES = {"x86_64": ("x86_64", "amd64"), "aarch64": ("aarch64", "arm64"), "armv7": ("armv7l", "armv8l", "aarch64")}
"""What a kernel may call the machine that an architecture's programs run on."""
NO_ENVIRONMENT: Mapping[str, str] = {}


class Process(Protocol):
    """A program that was started on a device."""

    def lines(self, timeout: float) -> Iterator[bytes]:
        """What it prints, a line at a time without its end, until it ends its output. May be called again to go on.

        Each line must come within `timeout` seconds of the one before and be at most 16 MiB long.
        """
        ...

    def wait(self) -> int:
        """Its exit status, once it has ended its output; below zero or above 128 if a signal ended it."""
        ...

    def end_input(self) -> None:
        """Close its standard input."""
        ...

    def kill(self) -> None:
        """End it now; nothing if it has ended already."""
        ...

    def errors(self) -> str:
        """The last 4 KiB that it wrote as errors, as one printable line."""
        ...


class Connection(Protocol):
    """A device that can be reached."""

    @property
    def name(self) -> str:
        """What messages call the device, with the way to it: `ssh pi@10.0.0.7:22`."""
        ...

    @property
    def architecture(self) -> str:
        """`x86_64`, `aarch64` or `armv7`."""
        ...

    @property
    def home(self) -> str:
        """The folder on the device that is edgekd's own."""
        ...

    def push(self, source: Path, target: str) -> None:
        """Copy a file of this machine to the device, with its folders; a half one is removed."""
        ...

    def pull(self, source: str, target: Path, limit: int) -> None:
        """Copy a file of at most `limit` bytes from the device; `target` is whole or not there."""
        ...

    def size(self, path: str) -> int | None:
        """The bytes of a file on the device, or None if there is none."""
        ...

    def move(self, source: str, target: str) -> None:
        """Rename a file on the device, with the folders it needs, in place of what was there."""
        ...

    def start(self, argv: Sequence[str], environment: Mapping[str, str] = NO_ENVIRONMENT) -> Process:
        """Start a program with exactly these arguments: nothing in them is read by a shell."""
        ...

    def close(self) -> None:
        """Give the device back; programs that still run there are ended."""
        ...
