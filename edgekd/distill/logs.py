"""What a training writes down while it runs: a table of numbers, and the same for TensorBoard."""

import csv
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TABLE = "training.csv"
EVENTS = "tensorboard"


@dataclass(frozen=True)
class Row:
    """One line of the log: where the training is, and its numbers by name; None where one was not taken."""

    epoch: int
    step: int
    numbers: dict[str, float | None]


class Log:
    """Writes `training.csv` and TensorBoard events, in `tensorboard/`, below a folder.

    A row is there as soon as it is written. A training that goes on from `step` drops the rows after that step, and
    tells TensorBoard to. All rows must have the same names.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._table = folder / TABLE
        kept = [row for row in _rows(self._table) if int(row[1]) <= step]
        self._header = _header(self._table) if kept else None
        if self._header is None:
            self._table.unlink(missing_ok=True)
        else:
            with self._table.open("w", newline="") as stream:
                csv.writer(stream).writerows([self._header, *kept])
        self._events = _Events(folder / EVENTS, step)

    def write(self, row: Row) -> None:
        """Add a row to both. Numbers are rounded to seven digits: they are single precision."""
        with self._table.open("a", newline="") as stream:
            writer = csv.writer(stream)
            if self._header is None:
                self._header = ["epoch", "step", *row.numbers]
                writer.writerow(self._header)
            numbers = ["" if value is None else f"{value:.7g}" for value in row.numbers.values()]
            writer.writerow([row.epoch, row.step, *numbers])
        self._events.write(row)


def keep(folder: Path | None, out: Path) -> None:
    """Copy the log of a finished training among the files of the step that ran it; in the main process alone."""
    from accelerate import PartialState

    if folder is not None and PartialState().is_main_process:
        shutil.copy(folder / TABLE, out)
        shutil.copytree(folder / EVENTS, out / EVENTS)


class _Events:
    """A TensorBoard event file, by the package's own record format: its usual writer would load tensorflow."""

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
        self._append(Event(wall_time=time.time(), file_version="brain.Event:2"))
        started = SessionLog(status=SessionLog.START)
        self._append(Event(wall_time=time.time(), step=step + 1, session_log=started))

    def write(self, row: Row) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=name, simple_value=value) for name, value in row.numbers.items() if value is not None
        ]
        self._append(Event(wall_time=time.time(), step=row.step, summary=Summary(value=values)))

    def _append(self, event) -> None:  # type: ignore[no-untyped-def]
        from tensorboard.summary.writer.record_writer import RecordWriter

        with self._file.open("ab") as stream:
            RecordWriter(stream).write(event.SerializeToString())


def _header(table: Path) -> list[str] | None:
    lines = _lines(table)
    return lines[0] if lines else None


def _rows(table: Path) -> Sequence[list[str]]:
    """The whole rows below the header; the last may have been cut off."""
    lines = _lines(table)
    return [row for row in lines[1:] if len(row) == len(lines[0]) and row[1].isdigit()]


def _lines(table: Path) -> list[list[str]]:
    if not table.is_file():
        return []
    with table.open(newline="") as stream:
        return list(csv.reader(stream))
