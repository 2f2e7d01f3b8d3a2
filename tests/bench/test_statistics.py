import numpy as np
import pytest

from edgekd.bench.statistics import Percentile, blocks, mean_with_interval, percentile, stability

MILLISECOND = 1e6


def steady(count: int = 400, seed: int = 0) -> np.ndarray:
    return (MILLISECOND * np.random.default_rng(seed).lognormal(0.0, 0.2, count)).astype(np.uint64)


def drifting(count: int = 600, seed: int = 0) -> np.ndarray:
    """AR(1) noise on a slow wave: runs near in time are alike."""
    rng, level, noise = np.random.default_rng(seed), 0.0, []
    for _ in range(count):
        level = 0.9 * level + rng.normal(0.0, 0.02)
        noise.append(level)
    wave = 0.1 * np.sin(np.linspace(0.0, 3.0 * np.pi, count))
    return (MILLISECOND * (1.0 + wave + np.array(noise))).astype(np.uint64)


def width_if_independent(samples: np.ndarray, share: float) -> float:
    """Of the 95 % interval that resampling single runs gives."""
    rng = np.random.default_rng(0)
    drawn = np.quantile(rng.choice(samples, (2000, len(samples))), share, axis=1)
    return float(np.subtract(*np.quantile(drawn, [0.975, 0.025]))) / MILLISECOND


def width(found: Percentile) -> float:
    return found.high - found.low


@pytest.mark.parametrize(("share", "value"), [(0.5, 100.0), (0.9, 180.0), (0.25, 50.0)])
def test_percentiles_of_a_known_series(share: float, value: float) -> None:
    samples = np.random.default_rng(0).permutation(np.arange(201)) * int(MILLISECOND)
    assert percentile(samples, share).value == pytest.approx(value)


def test_an_even_number_of_runs_has_its_median_between_two() -> None:
    assert percentile(np.arange(40) * MILLISECOND, 0.5).value == pytest.approx(19.5)


@pytest.mark.parametrize(("count", "share"), [(19, 0.5), (99, 0.9), (999, 0.99), (0, 0.5)])
def test_too_few_samples_for_a_percentile_give_none(count: int, share: float) -> None:
    assert percentile(np.arange(count), share) is None


@pytest.mark.parametrize(("count", "share"), [(20, 0.5), (100, 0.9), (200, 0.95), (1000, 0.99)])
def test_ten_samples_beyond_a_percentile_are_enough(count: int, share: float) -> None:
    assert percentile(np.arange(count), share) is not None


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("make", [steady, drifting])
def test_the_interval_holds_the_value(make: object, seed: int) -> None:
    for share in (0.5, 0.9):
        found = percentile(make(seed=seed), share)
        assert found.low <= found.value <= found.high
        assert width(found) > 0


def test_a_constant_series_has_no_interval() -> None:
    found = percentile(np.full(100, 3 * MILLISECOND), 0.5)
    assert (found.low, found.value, found.high) == (3.0, 3.0, 3.0)


def test_the_same_samples_give_the_same_interval() -> None:
    assert percentile(steady(), 0.5) == percentile(steady(), 0.5)


def test_more_runs_give_a_narrower_interval() -> None:
    assert width(percentile(steady(6400), 0.5)) < 0.6 * width(percentile(steady(400), 0.5))


def test_the_interval_of_the_median_holds_the_true_one_as_often_as_it_says() -> None:
    found = [percentile(steady(seed=seed), 0.5) for seed in range(200)]
    assert np.mean([one.low <= 1.0 <= one.high for one in found]) >= 0.88


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_for_runs_that_depend_on_each_other_it_is_wider(share: float) -> None:
    ratios = [
        width(percentile(drifting(seed=seed), share)) / width_if_independent(drifting(seed=seed), share)
        for seed in range(10)
    ]
    assert min(ratios) > 1.2
    assert np.median(ratios) > 2.0


@pytest.mark.parametrize(("count", "t"), [(2, 12.7062), (3, 4.3027), (6, 2.5706), (31, 2.0423), (1001, 1.9623)])
def test_the_interval_of_a_mean_is_as_wide_as_the_table_of_t_says(count: int, t: float) -> None:
    values = np.random.default_rng(count).normal(3.0, 0.5, count)
    mean, low, high = mean_with_interval(values)
    error = np.sqrt(((values - values.mean()) ** 2).sum() / (count - 1) / count)
    assert mean == pytest.approx(values.mean())
    assert (high - mean, mean - low) == pytest.approx((t * error, t * error), rel=1e-4)


@pytest.mark.parametrize("count", [2, 6, 12])
def test_the_interval_of_a_mean_holds_the_true_one_as_often_as_it_says(count: int) -> None:
    drawn = np.random.default_rng(count).normal(size=(2000, count))
    found = [mean_with_interval(values) for values in drawn]
    assert np.mean([low <= 0 <= high for _, low, high in found]) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("count", [4, 20, 333, 100_000])
def test_blocks_keep_every_run_in_order(count: int) -> None:
    parts = blocks(np.arange(count))
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(count))
    assert 2 <= len(parts) <= 50
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("count", [100, 64, 10])
def test_a_constant_series_is_stable(count: int) -> None:
    found = stability(np.full(count, 7))
    assert (found.spread, found.drift) == (0.0, 0.0)


def test_a_step_in_the_middle_is_a_drift() -> None:
    found = stability(np.repeat([100, 120], 50))
    assert found.drift == pytest.approx(0.2)
    assert found.spread == pytest.approx(10 / 110)


def test_a_series_that_gets_faster_drifts_down() -> None:
    assert stability(np.repeat([200, 150], 50)).drift == pytest.approx(-0.25)


def test_the_spread_is_that_of_ten_windows() -> None:
    medians = np.array([10, 12, 11, 10, 13, 9, 10, 11, 10, 10])
    samples = np.concatenate([[median - 5, median, median, median + 90] for median in medians])
    by_hand = np.sqrt(((medians - 10.6) ** 2).mean()) / np.median(samples)
    assert stability(samples).spread == pytest.approx(by_hand)


def test_single_slow_runs_do_not_make_a_series_unstable() -> None:
    samples = np.full(1000, 100)
    samples[::50] = 5000
    assert stability(samples).spread == 0.0
