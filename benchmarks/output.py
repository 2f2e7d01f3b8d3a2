"""What benchmarks have in common around their figures: columns, a folder for what they make."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path


def in_columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of as many cells each, one a line, every column as wide as its longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(cells, widths, strict=True)] for cells in rows]
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


@contextlib.contextmanager
def folder(given: Path | None) -> Iterator[Path]:
    """The folder that was given, or one that is gone afterwards."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="edgekd-") as place:
        yield Path(place)
