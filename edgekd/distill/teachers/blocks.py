"""Answers to all samples, block by block: a killed run goes on, and processes share the work.

Each block is a file, written aside, flushed, and renamed, so that one that is there is whole. Which process computes a
block follows from its number alone, so none is computed twice.
"""

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekd.processes import meet
from edgekd.step import Progress

SIZE = 256
"""Samples of a block."""
PATIENCE = 0.1
"""Seconds between two looks at what the other processes have done."""


@dataclass(frozen=True)
class Block:
    """Samples `start` to `stop` of a split in a view."""

    split: str
    view: int
    start: int
    stop: int

    def file(self, folder: Path) -> Path:
        return folder / f"{self.split}-{self.view}-{self.start}.npy"


def blocks_of(shapes: Mapping[str, tuple[int, int]]) -> list[Block]:
    """All blocks of splits, each of (views, samples)."""
    return [
        Block(split, view, start, min(start + SIZE, count))
        for split, (views, count) in shapes.items()
        for view in range(views)
        for start in range(0, count, SIZE)
    ]


@dataclass(frozen=True)
class Process:
    """One of `world` processes, from 0 on; the first one is the main one."""

    rank: int = 0
    world: int = 1


def this_process() -> Process:
    """As torchrun and accelerate tell it."""
    return Process(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def fill(
    blocks: Sequence[Block], folder: Path, compute: Callable[[Block], np.ndarray], process: Process, progress: Progress
) -> None:
    """Compute this process's share of the blocks that are not in the folder yet. Results are float32 (n, outputs).

    The processes of a launch take one block each and meet: nobody computes on for one that has failed.
    """
    done, total = 0, sum(block.stop - block.start for block in blocks)
    for first in range(0, len(blocks), process.world):
        turn = blocks[first : first + process.world]
        for block in turn[process.rank : process.rank + 1]:
            if not block.file(folder).exists():
                _write(block.file(folder), compute(block))
        if process.world > 1:
            meet()
        done += sum(block.stop - block.start for block in turn)
        progress(done, total, "samples")


def assemble(blocks: Sequence[Block], folder: Path, files: Mapping[str, tuple[Path, tuple[int, ...]]]) -> None:
    """Write the blocks of each split into one .npy file, float32, of the shape given, which is mapped to memory.

    The shape ends with (samples, outputs). Waits for blocks that other processes compute.
    """
    maps = {
        split: np.lib.format.open_memmap(file, "w+", np.float32, shape)  # type: ignore[no-untyped-call]
        for split, (file, shape) in files.items()
    }
    for block in blocks:
        while not block.file(folder).exists():
            time.sleep(PATIENCE)
        views = maps[block.split].reshape(-1, *maps[block.split].shape[-2:])
        views[block.view, block.start : block.stop] = np.load(block.file(folder))
    for mapped in maps.values():
        mapped.flush()


def _write(file: Path, outputs: np.ndarray) -> None:
    with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".partial", delete=False) as stream:
        np.save(stream, outputs)
        stream.flush()
        os.fsync(stream.fileno())
    Path(stream.name).replace(file)
