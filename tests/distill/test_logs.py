"""What a training writes, read back with csv and with TensorBoard's own reader."""

import csv
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from edgekd.distill.logs import EVENTS, TABLE, Log, Row


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / TABLE).open(newline="") as stream:
        return list(csv.DictReader(stream))


def events(folder: Path) -> list[tuple[int, str, float]]:
    """Step, tag and value of all numbers that TensorBoard would show: those after a restart replace older ones."""
    found: list[tuple[int, str, float]] = []
    for file in sorted((folder / EVENTS).iterdir()):
        assert "tfevents" in file.name
        for event in EventFileLoader(str(file)).Load():
            if event.HasField("session_log"):
                found = [each for each in found if each[0] < event.step]
            for value in event.summary.value:
                found.append((event.step, value.tag, value.tensor.float_val[0]))
    return found


def rows(*steps: int) -> list[Row]:
    return [Row(1, step, {"loss": step / 8, "validation_loss": None if step % 2 else 0.5}) for step in steps]


def test_rows_are_in_both(tmp_path: Path) -> None:
    log = Log(tmp_path, 0)
    for row in rows(1, 2):
        log.write(row)
    assert table(tmp_path) == [
        {"epoch": "1", "step": "1", "loss": "0.125", "validation_loss": ""},
        {"epoch": "1", "step": "2", "loss": "0.25", "validation_loss": "0.5"},
    ]
    assert events(tmp_path) == [(1, "loss", 0.125), (2, "loss", 0.25), (2, "validation_loss", 0.5)]


def test_going_on_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    log = Log(tmp_path, 0)
    for row in rows(1, 2, 3):
        log.write(row)
    with (tmp_path / TABLE).open("a") as stream:
        stream.write("1,4")
    log = Log(tmp_path, 2)
    for row in rows(3, 5):
        log.write(row)
    assert [row["step"] for row in table(tmp_path)] == ["1", "2", "3", "5"]
    assert [step for step, tag, _ in events(tmp_path) if tag == "loss"] == [1, 2, 3, 5]


@pytest.mark.parametrize("content", ["", "\n", "epoch,step\n", "\0\0"])
def test_a_table_without_rows_is_begun_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / TABLE).write_text(content)
    log = Log(tmp_path, 3)
    log.write(rows(4)[0])
    assert [row["step"] for row in table(tmp_path)] == ["4"]


def test_a_training_from_the_start_begins_anew(tmp_path: Path) -> None:
    Log(tmp_path, 0).write(rows(1)[0])
    Log(tmp_path, 0).write(rows(2)[0])
    assert [row["step"] for row in table(tmp_path)] == ["2"]
    assert {step for step, _, _ in events(tmp_path)} == {2}
