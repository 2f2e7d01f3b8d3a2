from dataclasses import replace
from pathlib import Path

import pytest

from edgekd.bench.power import find_source, meter_csv
from edgekd.bench.power.source import Power
from edgekd.device import Meter, PowerFigures
from edgekd.errors import UsageError

TEXT = "time,V,A\n1700000000.0,5.0,0.5\n1700000000.5,5.0,0.6\n1700000001.0,4.0,0.5\n"
OFFSET = 1_700_000_000 * 10**9 - 250


@pytest.fixture
def meter(tmp_path: Path) -> Meter:
    (tmp_path / "meter.csv").write_text(TEXT)
    return Meter(str(tmp_path / "meter.csv"), "time", volts="V", amps="A")


def read(meter: Meter, offset_ns: int = 0) -> Power:
    return meter_csv.watts((), offset_ns, meter=meter)


def rewritten(meter: Meter, text: str | bytes) -> Meter:
    Path(meter.file).write_bytes(text if isinstance(text, bytes) else text.encode())
    return meter


def refusal(meter: Meter) -> str:
    with pytest.raises(UsageError) as caught:
        read(meter)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_volts_times_amps_on_the_device_s_clock(meter: Meter) -> None:
    power = read(meter, OFFSET)
    assert power.times_ns.tolist() == [250, 500_000_250, 1_000_000_250]
    assert power.watts.tolist() == [2.5, 3.0, 2.0]


def test_a_column_of_watts_and_times_in_milliseconds(meter: Meter) -> None:
    text = "n;, W ,t\n1,2.5,1700000000000\n2,3,1700000000500\n"
    power = read(rewritten(replace(meter, time="t", time_unit="ms", watts="W", volts=None, amps=None), text), OFFSET)
    assert power.times_ns.tolist() == [250, 500_000_250]
    assert power.watts.tolist() == [2.5, 3.0]


@pytest.mark.parametrize("zone", ["Z", "+00:00"])
def test_dates(meter: Meter, zone: str) -> None:
    text = f"time,V,A\n2023-11-14T22:13:20{zone},5,1\n2023-11-14 22:13:20.500{zone},5,2\n"
    power = read(rewritten(replace(meter, time_unit="iso"), text), OFFSET)
    assert power.times_ns.tolist() == [250, 500_000_250]


def test_what_comes_while_the_model_runs_is_read_afterwards(meter: Meter) -> None:
    source = find_source({}, PowerFigures(source="csv", csv=meter))
    rewritten(meter, TEXT + "1700000001.5,5,1\n")
    assert source.paths == ()
    assert source.watts((), 0).watts.tolist() == [2.5, 3.0, 2.0, 5.0]


@pytest.mark.parametrize("rest", ["1700000001.5,5", "17000", "1700000001.5,5,0.0"])
def test_a_line_that_is_being_written_is_left_out(meter: Meter, rest: str) -> None:
    assert len(read(rewritten(meter, TEXT + rest)).watts) == 3


def test_a_byte_order_mark_and_empty_lines_do_no_harm(meter: Meter) -> None:
    assert len(read(rewritten(meter, "\ufeff" + TEXT.replace("\n", "\r\n") + "\r\n")).watts) == 3


@pytest.mark.parametrize(
    ("line", "number"),
    [("1700000002,5,x\n", 5), ("1700000002,5\n", 5), ("now,5,1\n", 5), ("1700000002,nan,1\n", 5), ("inf,5,1\n", 5)],
)
def test_what_is_no_number_is_told_by_line(meter: Meter, line: str, number: int) -> None:
    message = refusal(rewritten(meter, TEXT + line))
    assert f"{meter.file}, line {number}" in message


def test_a_clock_that_goes_back_is_told_by_line(meter: Meter) -> None:
    message = refusal(rewritten(meter, TEXT + "1699999999,5,1\n"))
    assert "line 5" in message
    assert "clock" in message


def test_a_column_that_is_not_there_is_answered_with_the_nearest(meter: Meter) -> None:
    assert "did you mean 'time'?" in refusal(replace(meter, time="tme"))
    assert "no column 'A'" in refusal(rewritten(meter, "time,V\n"))


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n\xff", b"\x00\x01\x02\n"])
def test_a_file_that_is_no_table_is_refused(meter: Meter, content: bytes) -> None:
    assert meter.file in refusal(rewritten(meter, content))


def test_a_missing_file_is_refused_before_anything_runs(meter: Meter, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="start the meter's program"):
        find_source({}, PowerFigures(source="csv", csv=replace(meter, file=str(tmp_path / "gone.csv"))))
