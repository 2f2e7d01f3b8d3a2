"""Bounds that were worked out by hand."""

from dataclasses import replace

import pytest

from edgekd.bench.calibration import Hardware
from edgekd.bench.roofline import NoRoofline, Roofline, roofline

CORE = Hardware(8e9, 16e9, 64e9, "calibrated on 2026-01-31")


def bound(*args: object, **changes: object) -> Roofline:
    found = roofline(*args, **changes)  # type: ignore[arg-type]
    assert isinstance(found, Roofline)
    return found


def test_compute_binds() -> None:
    """64 M multiply-accumulates at 64 G operations a second are 2 ms; 8 MB at 8 GB/s are 1 ms."""
    found = bound(64_000_000, 8_000_000, "int8", 4.0, CORE)
    assert (found.compute_ms, found.memory_ms, found.bound_ms) == pytest.approx((2.0, 1.0, 2.0))
    assert (found.binds, found.share) == ("compute", pytest.approx(0.5))
    assert found.sentence == ("runs at 50 % of this device's bound; compute binds (rates: calibrated on 2026-01-31)")


def test_memory_bandwidth_binds() -> None:
    found = bound(1_000_000, 8_000_000, "int8", 1.0 / 0.31, CORE)
    assert (found.binds, found.bound_ms) == ("memory bandwidth", pytest.approx(1.0))
    assert found.sentence.startswith("runs at 31 % of this device's bound; memory bandwidth binds")


@pytest.mark.parametrize("precision", ["float32", "float16", "int8-weights"])
def test_all_but_full_integers_compute_in_float(precision: str) -> None:
    assert bound(64_000_000, 1, precision, 8.0, CORE).bound_ms == pytest.approx(8.0)


def test_threads_compute_together_and_share_the_memory() -> None:
    one, four = (bound(64_000_000, 4_000_000, "int8", 4.0, CORE, threads) for threads in (1, 4))
    assert (one.compute_ms, four.compute_ms) == pytest.approx((2.0, 0.5))
    assert one.memory_ms == four.memory_ms == four.bound_ms


@pytest.mark.parametrize(("macs", "word"), [(64_000_000, "faster than these rates"), (1, "caches")])
def test_more_than_the_bound_is_said(macs: int, word: str) -> None:
    found = bound(macs, 4_000_000, "int8", 0.25, CORE)
    assert found.share > 1
    assert f"{100 * found.share:.0f} %" in found.sentence
    assert "above 100 %" in found.sentence
    assert word in found.sentence


def test_a_small_share_is_not_rounded_to_nothing() -> None:
    assert "0.20 %" in bound(64_000, 1, "int8", 1.0, CORE).sentence


@pytest.mark.parametrize("missing", ["int8_ops_per_s", "memory_bandwidth_bytes_per_s"])
def test_without_a_rate_there_is_no_bound(missing: str) -> None:
    found = roofline(1, 1, "int8", 1.0, replace(CORE, **{missing: None}))
    assert isinstance(found, NoRoofline)
    assert missing in found.why


@pytest.mark.parametrize("numbers", [(0, 1, 1.0), (1, 0, 1.0), (1, 1, 0.0)])
def test_without_a_cost_or_a_time_there_is_no_bound(numbers: tuple[int, int, float]) -> None:
    assert isinstance(roofline(numbers[0], numbers[1], "int8", numbers[2], CORE), NoRoofline)
