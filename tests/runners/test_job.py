"""Jobs as text: line by line, and nothing that is not one line."""

from dataclasses import replace

import pytest

from edgekd.errors import DeviceError
from edgekd.runners.job import Job, JobModel


def test_a_job_is_written_line_by_line() -> None:
    model = JobModel(
        "model0.tflite", "ai-edge-litert", "../../lib/a/lib.so", ("in0-0.bin",), ("out0-0.bin", "out0-1.bin")
    )
    job = Job(
        models=(model,), runs=128, seconds=6.0, warmup_seconds=0.5, sample_ms=100, samples=("/sys/a b",), lock="x"
    )
    assert job.text().splitlines() == [
        "edgekd-job 1",
        "threads 1",
        "warmup_runs 1",
        "warmup_seconds 0.5",
        "runs 128",
        "seconds 6",
        "idle_seconds 0",
        "sample_ms 100",
        "sample /sys/a b",
        "lock x",
        "model model0.tflite",
        "runtime ai-edge-litert",
        "library ../../lib/a/lib.so",
        "input in0-0.bin",
        "output out0-0.bin",
        "output out0-1.bin",
    ]
    both = replace(job, models=(model, model), blocks=30, swapped=True, seconds=1e-9).text()
    assert both.count("model ") == 2
    assert {"blocks 30", "swapped 1", "seconds 0.000000001"} <= set(both.splitlines())


@pytest.mark.parametrize("name", ["a\nlock /etc/passwd", "", "a\0b", "\x1b[2J"])
def test_a_value_that_is_not_one_line_is_refused(name: str) -> None:
    with pytest.raises(DeviceError, match="one line") as caught:
        Job(samples=(name,)).text()
    assert len(str(caught.value).splitlines()) == 1


def test_a_job_that_is_longer_than_the_agent_reads_is_refused() -> None:
    with pytest.raises(DeviceError, match="65536"):
        Job(samples=tuple("/sys/" + "x" * 4000 for _ in range(17))).text()
