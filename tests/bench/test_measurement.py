from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.bench import measure, measurement
from edgekd.bench.measurement import ATTEMPTS, Measurement
from edgekd.bench.protocol import Protocol
from edgekd.bench.statistics import Stability
from edgekd.errors import DeviceError, EdgekdError, UsageError
from tests.export.small import int8_content

SHORT = Protocol("short", runs=20, seconds=0.3)


@pytest.fixture(scope="module")
def measured(int8_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Measurement, np.ndarray]:
    file = tmp_path_factory.mktemp("samples") / "samples.npy"
    result = measure(int8_file, "local", SHORT, samples_file=file)
    return result, np.load(file)


@pytest.fixture
def fake_device(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """A device whose run times are given: one series a process, again at every attempt."""

    def install(*series: np.ndarray) -> list[int]:
        calls: list[int] = []

        def run(job: dict[str, Any], folder: Path) -> dict[str, Any]:
            np.save(folder / "samples.npy", series[len(calls) % len(series)].astype(np.uint64))
            calls.append(1)
            return {"load_ns": 2_000_000, "peak_memory_bytes": 30, "base_memory_bytes": 20}

        monkeypatch.setattr(measurement.local, "run", run)
        return calls

    return install


def flat(value: float, count: int = 100) -> np.ndarray:
    return np.full(count, value * 1e6)


def test_every_sample_is_kept(measured: tuple[Measurement, np.ndarray]) -> None:
    result, samples = measured
    assert samples.shape == (1, result.samples)
    assert result.samples >= SHORT.runs
    assert (samples > 0).all()


def test_percentiles_are_those_of_the_samples(measured: tuple[Measurement, np.ndarray]) -> None:
    result, samples = measured
    assert result.p50_ms.value == pytest.approx(np.median(samples) / 1e6)
    assert result.p90_ms.value == pytest.approx(np.quantile(samples, 0.9) / 1e6)


def test_a_measurement_says_where_how_and_with_what(measured: tuple[Measurement, np.ndarray]) -> None:
    result, _ = measured
    assert (result.device, result.timing, result.protocol) == ("local", "measured", "short")
    assert (result.processes, result.threads, result.process_spread) == (1, 1, None)
    assert result.machine["cores"] >= 1
    assert "ai-edge-litert 2" in result.harness
    assert {"governor", "frequency_mhz", "temperature_c", "load_1min"} <= result.state_before.keys()
    assert result.state_before.keys() == result.state_after.keys()


def test_memory_and_load_time_are_real(measured: tuple[Measurement, np.ndarray]) -> None:
    result, _ = measured
    assert result.peak_memory_bytes >= result.base_memory_bytes > 1_000_000
    assert result.load_ms > 0


def test_valid_means_no_reason_against_it(measured: tuple[Measurement, np.ndarray]) -> None:
    result, _ = measured
    assert result.valid is (result.why_not_valid == "")
    assert 1 <= result.attempts <= ATTEMPTS


def test_an_unstable_series_is_tried_again_and_then_not_valid(int8_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def unstable(samples: np.ndarray) -> Stability:
        seen.append(len(samples))
        return Stability(spread=0.5, drift=0.0)

    monkeypatch.setattr(measurement, "stability", unstable)
    result = measure(int8_file, "local", Protocol("short", runs=20, seconds=0.0))
    assert len(seen) == result.attempts == ATTEMPTS
    assert not result.valid
    assert "50.0%" in result.why_not_valid


def test_a_steady_series_is_valid_at_once(fake_device: Callable[..., list[int]], int8_file: Path) -> None:
    calls = fake_device(flat(2.0))
    result = measure(int8_file, "local", SHORT)
    assert (result.valid, result.attempts, len(calls)) == (True, 1, 1)
    assert (result.spread, result.drift) == (0.0, 0.0)
    assert result.p50_ms.value == 2.0
    assert result.load_ms == 2.0


def test_a_second_try_can_be_valid(fake_device: Callable[..., list[int]], int8_file: Path) -> None:
    fake_device(np.concatenate([flat(1.0), flat(9.0)]), flat(3.0))
    result = measure(int8_file, "local", SHORT)
    assert (result.valid, result.attempts, result.samples) == (True, 2, 100)
    assert result.p50_ms.value == 3.0


def test_a_drift_is_not_valid(fake_device: Callable[..., list[int]], int8_file: Path) -> None:
    fake_device(np.linspace(1.0, 1.1, 400) * 1e6)
    result = measure(int8_file, "local", SHORT)
    assert not result.valid
    assert result.spread < 0.05
    assert "drift" in result.why_not_valid


def test_processes_that_differ_are_not_valid(
    fake_device: Callable[..., list[int]], int8_file: Path, tmp_path: Path
) -> None:
    fake_device(flat(1.0, 90), flat(1.0, 80), flat(1.5, 100))
    file = tmp_path / "samples.npy"
    result = measure(int8_file, "local", Protocol("three", runs=20, seconds=0.0, processes=3), samples_file=file)
    assert not result.valid
    assert "between processes" in result.why_not_valid
    assert result.process_spread == pytest.approx(np.std([1.0, 1.0, 1.5]))
    assert result.samples == 270
    assert np.load(file).shape == (3, 80)


def test_a_valid_measurement_has_a_spread(fake_device: Callable[..., list[int]], int8_file: Path) -> None:
    fake_device(flat(1.0, 5))
    result = measure(int8_file, "local", Protocol("few", runs=5, seconds=0.0))
    assert not result.valid or np.isfinite(result.spread)
    assert result.p50_ms is None


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"this is not a model", UsageError),
        (int8_content, DeviceError),
        (b"\x20\0\0\0TFL3" + b"\xff" * 300, DeviceError),
    ],
    ids=["text", "truncated", "garbage"],
)
def test_a_corrupt_model_is_refused_in_one_line(damaged: Path, content: Any, kind: type[EdgekdError]) -> None:
    damaged.write_bytes(content()[:2000] if callable(content) else content)
    with pytest.raises(kind, match=r"damaged\.tflite") as caught:
        measure(damaged, "local", SHORT)
    assert "\n" not in str(caught.value)


def test_inputs_of_another_shape_are_refused(int8_file: Path) -> None:
    with pytest.raises(EdgekdError, match="Dimension mismatch"):
        measure(int8_file, "local", SHORT, [np.zeros((1, 2, 2, 3), dtype=np.int8)])


def test_an_unknown_device_is_refused_with_the_nearest_name(int8_file: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'local'"):
        measure(int8_file, "locl", SHORT)
