from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgekd.bench import measurement
from edgekd.bench.measurement import ATTEMPTS, Measured, kept, measure
from edgekd.bench.protocol import Protocol
from edgekd.errors import DeviceError, UsageError
from edgekd.runners.events import Description, ModelOutcome, Outcome, Phase, Readings, Runs, State
from edgekd.runners.job import Job
from edgekd.runners.session import ModelFiles
from edgekd.runtimes import open_session
from tests.export.small import int8_content

SHORT = Protocol("short", runs=20, seconds=0.3)
LONG = Protocol("long", runs=20, seconds=10.0)
SECOND = 1_000_000_000
STATE = State("performance", (1_500_000,), (40_000,), None, 0.1)


@pytest.fixture(scope="module")
def measured(int8_file: Path) -> Measured:
    return measure(int8_file, "local", SHORT)


@pytest.fixture
def fake_device(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Job]]:
    """A fake device whose run times are given: one series a process, again at every attempt; and its power sensor."""

    def install(*series: np.ndarray, sensors: dict[str, str] | None = None, watts: float = 0.0) -> list[Job]:
        jobs: list[Job] = []

        def run(job: Job, _files: Sequence[ModelFiles]) -> Outcome:
            ns = series[len(jobs) % len(series)].astype(np.int64)
            jobs.append(job)
            idle = Phase("idle", 0, int(job.idle_seconds * SECOND))
            active = Phase("active", idle.end_ns, idle.end_ns + int(ns.sum()))
            times = np.arange(0, active.end_ns + 1, SECOND // 10)
            power = np.where(times < idle.end_ns, 1e6, watts * 1e6).astype(np.int64)
            return Outcome(
                waited=False,
                before=STATE,
                after=STATE,
                models=(ModelOutcome(20, 2_000_000, (), (), 0, (Runs(None, active.start_ns, ns),)),),
                phases=(idle, active),
                offset_ns=0,
                peak_bytes=30,
                arena_bytes=None,
                readings=tuple(Readings(times, power, None) for _ in job.samples),
            )

        @contextmanager
        def session(_profile: Any) -> Iterator[Any]:
            told = Description("aarch64", "Linux", "6.1", 4096, 4, "a fake", 1 << 30, sensors or {})
            yield SimpleNamespace(architecture="aarch64", description=told, run=run)

        monkeypatch.setattr(measurement, "session", session)
        return jobs

    return install


def flat(value: float, count: int = 100) -> np.ndarray:
    return np.full(count, value * 1e6)


def test_every_sample_is_kept(measured: Measured) -> None:
    (samples,) = measured.runs_ns
    assert len(samples) == measured.measurement.samples >= SHORT.runs
    assert (samples > 0).all()


def test_percentiles_are_those_of_the_samples(measured: Measured) -> None:
    (samples,), result = measured.runs_ns, measured.measurement
    assert result.p50_ms is not None
    assert result.p90_ms is not None
    assert result.p50_ms.value == pytest.approx(np.median(samples) / 1e6)
    assert result.p90_ms.value == pytest.approx(np.quantile(samples, 0.9) / 1e6)


def test_a_measurement_says_where_how_and_with_what(measured: Measured) -> None:
    result = measured.measurement
    assert (result.device, result.timing, result.protocol) == ("local", "measured", "short")
    assert (result.processes, result.threads, result.process_spread) == (1, 1, None)
    assert result.machine["cores"] >= 1
    assert result.harness == "edgekd's agent, ai-edge-litert 2.3.0"
    assert result.state_before.keys() == result.state_after.keys()
    assert result.state_before["load1"] >= 0


def test_memory_and_load_time_are_real(measured: Measured) -> None:
    result = measured.measurement
    assert result.peak_memory_bytes is not None
    assert result.base_memory_bytes is not None
    assert result.peak_memory_bytes > result.base_memory_bytes > 1_000_000
    assert result.memory_contains == ""
    assert result.load_ms > 0


def test_valid_means_no_reason_against_it(measured: Measured) -> None:
    result = measured.measurement
    assert result.valid is (result.why_not_valid == "")
    assert 1 <= result.attempts <= ATTEMPTS


def test_a_device_answers_to_every_sample_as_the_host_does(int8_file: Path) -> None:
    samples = np.random.default_rng(0).integers(-128, 128, (5, 8, 6, 3), dtype=np.int8)
    found = measure(int8_file, "local", SHORT, [samples], outputs=1)
    assert np.array_equal(found.outputs[0], open_session(int8_file).run(samples))


def test_an_unstable_series_is_tried_again_and_then_not_valid(
    fake_device: Callable[..., list[Job]], int8_file: Path
) -> None:
    jobs = fake_device(np.concatenate([flat(1.0), flat(2.0)]))
    result = measure(int8_file, "local", SHORT).measurement
    assert (len(jobs), result.attempts, result.valid) == (ATTEMPTS, ATTEMPTS, False)
    assert "spread" in result.why_not_valid


def test_a_steady_series_is_valid_at_once(fake_device: Callable[..., list[Job]], int8_file: Path) -> None:
    jobs = fake_device(flat(2.0))
    result = measure(int8_file, "local", SHORT).measurement
    assert (result.valid, result.attempts, len(jobs)) == (True, 1, 1)
    assert (result.spread, result.drift) == (0.0, 0.0)
    assert result.p50_ms is not None
    assert result.p50_ms.value == 2.0
    assert result.load_ms == 2.0


def test_a_second_try_can_be_valid(fake_device: Callable[..., list[Job]], int8_file: Path) -> None:
    fake_device(np.concatenate([flat(1.0), flat(9.0)]), flat(3.0))
    result = measure(int8_file, "local", SHORT).measurement
    assert (result.valid, result.attempts, result.samples) == (True, 2, 100)
    assert result.p50_ms is not None
    assert result.p50_ms.value == 3.0


def test_a_drift_is_not_valid(fake_device: Callable[..., list[Job]], int8_file: Path) -> None:
    fake_device(np.linspace(1.0, 1.1, 400) * 1e6)
    result = measure(int8_file, "local", SHORT).measurement
    assert not result.valid
    assert result.spread < 0.05
    assert "drift" in result.why_not_valid


def test_processes_that_differ_are_not_valid(fake_device: Callable[..., list[Job]], int8_file: Path) -> None:
    fake_device(flat(1.0, 90), flat(1.0, 80), flat(1.5, 100))
    found = measure(int8_file, "local", Protocol("three", runs=20, seconds=0.0, processes=3))
    result = found.measurement
    assert not result.valid
    assert "between processes" in result.why_not_valid
    assert result.process_spread == pytest.approx(np.std([1.0, 1.0, 1.5]))
    assert result.samples == 270
    assert kept(found.runs_ns).shape == (3, 80)


def test_too_few_runs_give_no_percentile(fake_device: Callable[..., list[Job]], int8_file: Path) -> None:
    fake_device(flat(1.0, 5))
    result = measure(int8_file, "local", Protocol("few", runs=5, seconds=0.0)).measurement
    assert not result.valid
    assert result.p50_ms is None


def test_energy_is_that_above_idle(fake_device: Callable[..., list[Job]], int8_file: Path) -> None:
    sensors = {"/sys/class/hwmon/hwmon0/name": "ina226", "/sys/class/hwmon/hwmon0/power1_input": "1000000"}
    jobs = fake_device(flat(5.0, 2400), sensors=sensors, watts=3.0)
    result = measure(int8_file, "local", LONG).measurement
    assert result.energy.kind == "measured"
    assert result.energy.joules_per_inference is not None
    assert result.energy.joules_per_inference.value == pytest.approx(2.0 * 0.005, rel=0.02)
    assert result.energy.idle_watts == pytest.approx(1.0, rel=0.02)
    assert jobs[0].samples == ("/sys/class/hwmon/hwmon0/power1_input",)
    assert jobs[0].idle_seconds >= 10


def test_power_is_not_read_where_the_runs_are_too_short(fake_device: Callable[..., list[Job]], int8_file: Path) -> None:
    sensors = {"/sys/class/hwmon/hwmon0/name": "ina226", "/sys/class/hwmon/hwmon0/power1_input": "1000000"}
    jobs = fake_device(flat(5.0), sensors=sensors, watts=3.0)
    energy = measure(int8_file, "local", SHORT).measurement.energy
    assert energy.kind == "not measured"
    assert "longer protocol" in energy.why
    assert (jobs[0].idle_seconds, jobs[0].samples) == (0.0, ())


def test_no_sensor_is_not_measured_and_asks_for_no_idle_time(
    fake_device: Callable[..., list[Job]], int8_file: Path
) -> None:
    jobs = fake_device(flat(2.0))
    result = measure(int8_file, "local", LONG).measurement
    assert result.energy.kind == "not measured"
    assert (jobs[0].idle_seconds, jobs[0].samples) == (0.0, ())


@pytest.mark.parametrize(
    "content", [int8_content, b"\x20\0\0\0TFL3" + b"\xff" * 300, b"this is not a model"], ids=["cut", "garbage", "text"]
)
def test_a_corrupt_model_is_refused_in_one_line(damaged: Path, content: Any) -> None:
    damaged.write_bytes(content()[:2000] if callable(content) else content)
    with pytest.raises(DeviceError) as caught:
        measure(damaged, "local", SHORT)
    assert "\n" not in str(caught.value)


def test_inputs_of_another_shape_are_refused(int8_file: Path) -> None:
    with pytest.raises(DeviceError, match="in0-0"):
        measure(int8_file, "local", SHORT, [np.zeros((1, 2, 2, 3), dtype=np.int8)], outputs=1)


def test_an_unknown_device_is_refused_with_the_nearest_name(int8_file: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'local'"):
        measure(int8_file, "locl", SHORT)
