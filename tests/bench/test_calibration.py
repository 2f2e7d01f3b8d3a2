import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from edgekd.bench.calibration import Hardware, hardware_of, load, store
from edgekd.device import load_device
from edgekd.errors import DeviceError, UsageError

RATES = {
    "event": "rates",
    "bandwidth_bytes_per_s": 4.1e9,
    "float32_flops_per_s": 11_900_000_000,
    "int8_ops_per_s": 2.3e10,
}
NAME = "raspberry-pi-4"


def test_what_was_measured_is_kept_with_its_date(tmp_path: Path) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    kept = store(NAME, RATES, tmp_path / "new" / "folder")
    found = load(NAME, tmp_path / "new" / "folder")
    assert found == kept
    assert (kept.device, kept.bandwidth_bytes_per_s, kept.float32_flops_per_s) == (NAME, 4.1e9, 11.9e9)
    assert before <= datetime.fromisoformat(kept.date) <= datetime.now(UTC)
    assert [file.name for file in (tmp_path / "new" / "folder").iterdir()] == [f"{NAME}.json"]


def test_measured_rates_go_before_the_profile_s(tmp_path: Path) -> None:
    profile = load_device(NAME)
    assert hardware_of(NAME, profile, tmp_path) == Hardware(12.8e9, 14.4e9, 28.8e9, "the device's profile")
    kept = store(NAME, RATES, tmp_path)
    assert hardware_of(NAME, profile, tmp_path) == Hardware(4.1e9, 11.9e9, 23e9, f"calibrated on {kept.date[:10]}")


def test_a_device_without_figures_is_not_known(tmp_path: Path) -> None:
    found = hardware_of("local", load_device("local"), tmp_path)
    assert (found.memory_bandwidth_bytes_per_s, found.int8_ops_per_s) == (None, None)
    assert "calibrate" in found.source


def test_a_new_calibration_takes_the_place_of_the_old(tmp_path: Path) -> None:
    store(NAME, RATES, tmp_path)
    store(NAME, {**RATES, "int8_ops_per_s": 5e10}, tmp_path)
    found = load(NAME, tmp_path)
    assert found is not None
    assert found.int8_ops_per_s == 5e10


def test_a_file_of_the_users_has_its_own(tmp_path: Path) -> None:
    store("/some/where/mine.toml", RATES, tmp_path)
    assert load("mine.toml", tmp_path) is not None
    assert load(NAME, tmp_path) is None


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), None, "1e9", True, [1]])
@pytest.mark.parametrize("key", ["bandwidth_bytes_per_s", "float32_flops_per_s", "int8_ops_per_s"])
def test_what_is_no_rate_is_refused_and_not_kept(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=key):
        store(NAME, {**RATES, key: value}, tmp_path)
    assert load(NAME, tmp_path) is None


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="cannot be written") as caught:
        store(NAME, RATES, tmp_path / "file")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"date": 5}',
        b'{"date": "2026-01-01T00:00:00+00:00", "device": "x"}',
        json.dumps({**RATES, "date": "2026-01-01T00:00:00+00:00", "device": "x"}).encode(),
    ],
)
def test_a_file_that_says_something_else_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / f"{NAME}.json"
    file.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        load(NAME, tmp_path)
    assert str(file) in str(caught.value)
    assert "calibrate again" in str(caught.value)
    assert "\n" not in str(caught.value)
