"""What benchmarks have in common around their figures: columns, circumstances, a folder for what they make."""

import contextlib
import platform
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from edgekd.runners import host


def in_columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of as many cells each, one a line, every column as wide as its longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(cells, widths, strict=True)] for cells in rows]
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def circumstances(packages: Iterable[str]) -> dict[str, Any]:
    """What a figure was taken with."""
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "machine": {"system": platform.platform(), "processor": platform.machine(), **host.describe()},
        "threads": torch.get_num_threads(),
        "state": host.state(),
    }


@contextlib.contextmanager
def folder(given: Path | None) -> Iterator[Path]:
    """The folder that was given, or one that is gone afterwards."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="edgekd-") as place:
        yield Path(place)
