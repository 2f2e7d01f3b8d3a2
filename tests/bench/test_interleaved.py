from pathlib import Path

import numpy as np
import pytest

from edgekd.bench.interleaved import Ratio, compare, ratio
from edgekd.errors import DeviceError

SHAPE = (6, 30, 30)


def noise(seed: int, spread: float = 0.1, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Factors with a median of one."""
    return np.random.default_rng(seed).lognormal(0.0, spread, shape)


def pair(true: float, seed: int) -> Ratio:
    """Of synthetic run times whose true ratio is known; processes differ by 2 %."""
    processes = noise(1000 + seed, 0.02, (SHAPE[0], 1, 1))
    return ratio(1e5 * true * processes * noise(2 * seed), 1e5 * noise(2 * seed + 1))


def test_equal_times_have_the_ratio_one_and_no_interval() -> None:
    assert ratio(np.full(SHAPE, 300), np.full(SHAPE, 300)) == Ratio(1.0, 1.0, 1.0)


def test_it_is_the_first_over_the_second() -> None:
    found = ratio(np.full(SHAPE, 150), np.full(SHAPE, 600))
    assert (found.low, found.value, found.high) == pytest.approx((0.25, 0.25, 0.25))


def test_turned_round_it_is_the_reciprocal() -> None:
    one, other = 1e5 * noise(1), 2e5 * noise(2)
    found, turned = ratio(one, other), ratio(other, one)
    assert found.value == pytest.approx(1 / turned.value)
    assert found.low == pytest.approx(1 / turned.high, rel=0.01)


@pytest.mark.parametrize("true", [0.5, 0.97, 1.0, 3.0])
def test_a_known_ratio_is_found(true: float) -> None:
    found = pair(true, seed=0)
    assert found.value == pytest.approx(true, rel=0.03)
    assert found.low < found.value < found.high


def test_the_interval_holds_the_true_ratio_as_often_as_it_says() -> None:
    held = [pair(1.25, seed) for seed in range(400)]
    share = np.mean([one.low <= 1.25 <= one.high for one in held])
    assert 0.92 <= share <= 0.98


def test_the_fewer_processes_differ_the_less_they_tell() -> None:
    def width(count: int) -> float:
        levels = np.resize([1.0, 1.1], count)[:, None, None]
        found = ratio(100 * levels * np.ones((count, 4, 4)), np.full((count, 4, 4), 100.0))
        return np.log(found.high / found.low) / np.log(1.1)

    assert [width(count) for count in (2, 6, 20)] == pytest.approx([12.706, 1.150, 0.480], rel=1e-2)


def test_a_slow_drift_of_both_falls_out() -> None:
    drift = np.linspace(1.0, 2.0, SHAPE[1])[:, None]
    steady = ratio(110 * noise(3, 0.01), 100 * noise(4, 0.01))
    drifting = ratio(110 * drift * noise(3, 0.01), 100 * drift * noise(4, 0.01))
    assert drifting.value == pytest.approx(steady.value, rel=1e-9)
    assert drifting.high - drifting.low == pytest.approx(steady.high - steady.low, rel=1e-9)


def test_a_few_disturbed_runs_and_blocks_change_nothing() -> None:
    one, other = np.full(SHAPE, 120.0), np.full(SHAPE, 100.0)
    one[:, :, ::7] *= 50
    one[:, ::5] *= 3
    other[:, 2::5] *= 4
    assert ratio(one, other).value == pytest.approx(1.2)


def test_processes_that_disagree_widen_the_interval() -> None:
    levels = np.linspace(1.0, 1.3, SHAPE[0])[:, None, None]
    found = ratio(100 * levels * noise(5, 0.01), 100 * noise(6, 0.01))
    assert found.value == pytest.approx(float(np.exp(np.log(levels).mean())), rel=0.01)
    assert found.low < 1.1
    assert found.high > 1.2


def test_the_same_samples_give_the_same_interval() -> None:
    assert pair(1.1, seed=7) == pair(1.1, seed=7)


def test_processes_and_load_order_are_put_together(int8_file: Path, float_file: Path) -> None:
    found = compare(int8_file, float_file, processes=2, blocks=4, seconds=0.05)
    assert (found.device, found.timing, found.processes, found.blocks) == ("local", "measured", 2, 4)
    assert found.runs >= 2 * 4 * 2
    assert found.ratio.low <= found.ratio.value <= found.ratio.high
    assert found.model_ms > 0


def test_each_model_gets_its_own_inputs(int8_file: Path, float_file: Path) -> None:
    int8, float32 = (np.zeros((1, 8, 6, 3), dtype=dtype) for dtype in (np.int8, np.float32))
    compare(int8_file, float_file, [int8], [float32], processes=2, blocks=2, seconds=0.01)
    with pytest.raises(DeviceError, match="in0-0"):
        compare(int8_file, float_file, [np.zeros((1, 5), np.int8)], [float32], processes=1, blocks=2, seconds=0.01)


def test_a_file_that_is_no_model_is_refused_by_name(int8_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.tflite"
    other.write_text("not a model")
    with pytest.raises(DeviceError, match=r"against other\.tflite"):
        compare(int8_file, other, processes=1)
    with pytest.raises(DeviceError, match=r"other\.tflite against"):
        compare(other, int8_file, processes=1)
