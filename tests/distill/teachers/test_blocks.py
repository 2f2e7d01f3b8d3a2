"""Blocks of answers: whole or absent, shared by processes, put together in their places."""

from pathlib import Path

import numpy as np
import pytest

from edgekd.distill.teachers.blocks import SIZE, Block, Process, assemble, blocks_of, fill, this_process
from edgekd.step import silent

SHAPES = {"train": (2, SIZE + 7), "validation": (1, 5)}


def numbers(block: Block) -> np.ndarray:
    """Each row tells its view and sample."""
    rows = np.arange(block.start, block.stop, dtype=np.float32)
    return np.stack([np.full_like(rows, block.view), rows], axis=1)


def test_every_sample_is_in_one_block() -> None:
    blocks = blocks_of(SHAPES)
    for split, (views, count) in SHAPES.items():
        for view in range(views):
            rows = [row for b in blocks if (b.split, b.view) == (split, view) for row in range(b.start, b.stop)]
            assert rows == list(range(count))
    assert max(block.stop - block.start for block in blocks) == SIZE


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_processes_share_the_blocks_without_doubling(world: int, tmp_path: Path) -> None:
    asked: list[Block] = []

    def compute(block: Block) -> np.ndarray:
        asked.append(block)
        return numbers(block)

    for rank in range(world):
        fill(blocks_of(SHAPES), tmp_path, compute, Process(rank, world), silent)
    assert sorted(map(str, asked)) == sorted(map(str, blocks_of(SHAPES)))


def test_blocks_come_to_their_places(tmp_path: Path) -> None:
    blocks = blocks_of(SHAPES)
    fill(blocks, tmp_path, numbers, Process(), silent)
    files = {"train": (tmp_path / "train.npy", (2, SIZE + 7, 2)), "validation": (tmp_path / "validation.npy", (5, 2))}
    assemble(blocks, tmp_path, files)
    train, validation = np.load(tmp_path / "train.npy"), np.load(tmp_path / "validation.npy")
    assert (train.dtype, train.shape, validation.shape) == (np.float32, (2, SIZE + 7, 2), (5, 2))
    np.testing.assert_array_equal(train[1], numbers(Block("train", 1, 0, SIZE + 7)))
    np.testing.assert_array_equal(validation, numbers(Block("validation", 0, 0, 5)))


def test_what_is_there_is_not_computed_again(tmp_path: Path) -> None:
    blocks = blocks_of(SHAPES)
    fill(blocks[:2], tmp_path, numbers, Process(), silent)
    asked: list[Block] = []
    fill(blocks, tmp_path, lambda block: (asked.append(block), numbers(block))[1], Process(), silent)
    assert asked == blocks[2:]


def test_a_block_that_was_not_finished_is_computed_again(tmp_path: Path) -> None:
    blocks = blocks_of(SHAPES)

    def fails(block: Block) -> np.ndarray:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(blocks, tmp_path, fails, Process(), silent)
    assert not list(tmp_path.glob("*.npy"))


def test_progress_counts_samples(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    fill(blocks_of(SHAPES), tmp_path, numbers, Process(), lambda done, total, note="": seen.append((done, total)))
    total = 2 * (SIZE + 7) + 5
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_the_launcher_says_which_process_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert this_process() == Process(0, 1)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert this_process() == Process(3, 4)
