"""The file that a USB meter's program writes on this machine while the device runs."""

import csv
import math
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np

from edgekd.bench.power.source import Power, Series, Source
from edgekd.config import nearest
from edgekd.device import Meter
from edgekd.errors import UsageError

UNITS_NS = {"s": 1e9, "ms": 1e6}
LARGEST_BYTES = 1 << 28


def find(meter: Meter) -> Source:
    """The meter's file; raises UsageError if it is not there yet, or has not the columns that are named."""
    _rows(meter)
    return Source("csv", f"the meter's file {meter.file}", (), partial(watts, meter=meter))


def watts(_samples: Sequence[Series], offset_ns: int, *, meter: Meter) -> Power:
    """Power from the whole file, on the device's clock: the file's time less `offset_ns`.

    A last line that is not finished is left out. Raises UsageError for what is no number, and for times that go back.
    """
    columns, rows = _rows(meter)
    times, power = [], []
    for number, row in rows:
        where = f"{meter.file}, line {number}"
        try:
            cells = [row[column] for column in columns]
            times.append(_nanoseconds(cells[0], meter.time_unit) - offset_ns)
            power.append(math.prod(float(cell) for cell in cells[1:]))
        except (IndexError, ValueError):
            raise UsageError(f"{where}: '{','.join(row)}' is not a time and its readings") from None
        if not math.isfinite(power[-1]):
            raise UsageError(f"{where}: '{','.join(row)}' is not a time and its readings")
        if len(times) > 1 and times[-1] < times[-2]:
            raise UsageError(f"{where}: the time is before that of the line above; the meter's clock jumped")
    return Power(np.array(times, np.int64), np.array(power, float))


def _rows(meter: Meter) -> tuple[list[int], list[tuple[int, list[str]]]]:
    """The places of time and readings in a row, and the finished rows with their line numbers."""
    file = Path(meter.file).expanduser()
    try:
        if file.stat().st_size > LARGEST_BYTES:
            raise UsageError(f"{file}: is above {LARGEST_BYTES >> 20} MiB; let the meter begin a new file")
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"{file}: no such file; start the meter's program first") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read as UTF-8 text ({error})") from error
    finished = text[: text.rfind("\n") + 1]
    reader = csv.reader(finished.splitlines())
    try:
        header = [cell.strip() for cell in next(reader, [])]
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise UsageError(f"{file}: not a CSV file ({error})") from error
    wanted = [meter.time, *(column for column in (meter.watts, meter.volts, meter.amps) if column is not None)]
    for column in wanted:
        if column not in header:
            raise UsageError(f"{file}: there is no column '{column}'; {nearest(column, header)}")
    return [header.index(column) for column in wanted], rows


def _nanoseconds(text: str, unit: str) -> int:
    """Nanoseconds since 1970; a date without a zone is this machine's time."""
    if unit == "iso":
        return round(datetime.fromisoformat(text.strip()).timestamp() * 1e6) * 1000
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return round(value * UNITS_NS[unit])
