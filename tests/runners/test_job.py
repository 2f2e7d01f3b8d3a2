"""Jobs as text, and what the agent tells: whatever is not exactly that is refused in one line."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgekd.errors import DeviceError
from edgekd.runners.job import Job, JobModel, Outcome, parse_description, parse_events, parse_rates

STATE = {"governor": None, "frequency_khz": [1500000], "temperature_millicelsius": [-5, 41000], "battery": None}
TOLD: tuple[dict[str, Any], ...] = (
    {"event": "state", "when": "before", **STATE, "load1": 0.25},
    {"event": "base_memory", "model": 0, "bytes": 1000},
    {"event": "load", "model": 0, "ns": 7},
    {
        "event": "tensor",
        "model": 0,
        "kind": "input",
        "index": 0,
        "name": "in",
        "dtype": "int8",
        "shape": [1, 4],
        "bytes": 4,
    },
    {
        "event": "tensor",
        "model": 0,
        "kind": "output",
        "index": 0,
        "name": "o",
        "dtype": "float32",
        "shape": [3],
        "bytes": 12,
    },
    {"event": "outputs", "model": 0, "samples": 2},
    {"event": "phase", "name": "idle", "start_ns": 100, "end_ns": 200},
    {"event": "phase", "name": "warmup", "start_ns": 200, "end_ns": 300},
    {"event": "phase", "name": "active", "start_ns": 300, "end_ns": 400},
    {"event": "memory", "peak_bytes": 3000, "arena_bytes": None},
    {"event": "runs", "model": 0, "block": None, "start_ns": 300, "ns": [10, 20]},
    {"event": "runs", "model": 0, "block": None, "start_ns": 340, "ns": [30]},
    {"event": "power", "sensor": 0, "time_ns": 150, "value": -5},
    {"event": "power", "sensor": 0, "time_ns": 350, "value": 9},
    {"event": "power_lost", "sensor": 1, "time_ns": 120},
    {"event": "state", "when": "after", **STATE, "load1": 1.5},
    {"event": "end"},
)
BEFORE, BASE, LOAD, INPUT, _, OUTPUTS, IDLE, _, ACTIVE, MEMORY, RUNS, _, POWER, _, LOST, AFTER, END = range(len(TOLD))


def lines(events: tuple[dict[str, Any], ...] = TOLD) -> Iterator[bytes]:
    return (json.dumps(event).encode() for event in events)


def read(events: tuple[dict[str, Any], ...] = TOLD) -> Outcome:
    return parse_events(lines(events), sensors=2, where="pi")


def changed(position: int, **values: Any) -> tuple[dict[str, Any], ...]:
    return (*TOLD[:position], {**TOLD[position], **values}, *TOLD[position + 1 :])


def refused(events: tuple[dict[str, Any], ...] | Iterator[bytes]) -> str:
    with pytest.raises(DeviceError) as caught:
        parse_events(lines(events) if isinstance(events, tuple) else events, sensors=2, where="pi")
    message = str(caught.value)
    assert message.startswith("pi: ")
    assert len(message.splitlines()) == 1
    return message


def test_what_the_agent_told_is_kept() -> None:
    outcome = read()
    (model,) = outcome.models
    assert (model.base_bytes, model.load_ns, model.samples, outcome.peak_bytes) == (1000, 7, 2, 3000)
    assert [(one.name, one.dtype, one.shape, one.bytes) for one in (*model.inputs, *model.outputs)] == [
        ("in", "int8", (1, 4), 4),
        ("o", "float32", (3,), 12),
    ]
    assert model.ns.tolist() == [10, 20, 30]
    assert [phase.name for phase in outcome.phases] == ["idle", "warmup", "active"]
    assert outcome.readings[0].times_ns.tolist() == [150, 350]
    assert outcome.readings[0].values.tolist() == [-5, 9]
    assert (outcome.readings[0].lost_ns, outcome.readings[1].lost_ns) == (None, 120)
    assert outcome.before.temperature_millicelsius == (-5, 41000)
    assert (outcome.before.load1, outcome.after.load1) == (0.25, 1.5)
    assert not outcome.waited
    assert parse_events(lines(({"event": "waiting"}, *TOLD)), sensors=2).waited


def test_two_models_come_back_in_the_order_of_the_job() -> None:
    """The second was loaded first and began; each block of a model is one series."""
    one, other = ([{**TOLD[position], "model": model} for position in (BASE, LOAD)] for model in (0, 1))
    runs = [
        {**TOLD[RUNS], "model": model, "block": block, "ns": [ns]}
        for model, block, ns in ((1, 0, 1), (0, 0, 2), (0, 0, 3), (1, 0, 4), (1, 1, 5), (0, 1, 6))
    ]
    events = (TOLD[BEFORE], *other, *one, TOLD[ACTIVE], TOLD[MEMORY], *runs, TOLD[AFTER], TOLD[END])
    first, second = parse_events(lines(events), models=2).models
    assert [(series.block, series.ns.tolist()) for series in first.runs] == [(0, [2, 3]), (1, [6])]
    assert [(series.block, series.ns.tolist()) for series in second.runs] == [(0, [1, 4]), (1, [5])]


def test_every_event_that_is_left_out_or_comes_twice_is_missed_or_refused() -> None:
    """But for those that may come as often as they like, or not at all."""
    many, optional = {"power", "runs"}, {"tensor", "outputs", "phase", "power", "power_lost", "runs"}
    for position, event in enumerate(TOLD):
        if event["event"] not in optional:
            refused(TOLD[:position] + TOLD[position + 1 :])
        if event["event"] not in many:
            refused((*TOLD[: position + 1], *TOLD[position:]))


def test_events_out_of_order_are_refused() -> None:
    for position in range(len(TOLD) - 1):
        if TOLD[position]["event"] not in ("runs", "power", "power_lost", "tensor"):
            swapped = (*TOLD[:position], TOLD[position + 1], TOLD[position], *TOLD[position + 2 :])
            refused(swapped)
    assert "out of order" in refused((*TOLD, TOLD[RUNS]))


def test_a_job_that_breaks_off_says_so() -> None:
    for length in range(len(TOLD)):
        assert "broke off" in refused(TOLD[:length])


@pytest.mark.parametrize(
    ("position", "values"),
    [
        (BASE, {"bytes": -1}),
        (BASE, {"bytes": 1.5}),
        (BASE, {"bytes": True}),
        (BASE, {"bytes": "1000"}),
        (BASE, {"model": 1}),
        (LOAD, {"ns": 1 << 63}),
        (LOAD, {"ns": None}),
        (INPUT, {"kind": "weights"}),
        (INPUT, {"index": 1}),
        (INPUT, {"dtype": "object"}),
        (INPUT, {"shape": [1, -4]}),
        (INPUT, {"shape": [1] * 33}),
        (INPUT, {"bytes": 5}),
        (INPUT, {"shape": [1 << 33], "bytes": 1 << 33}),
        (INPUT, {"name": "n" * 5000}),
        (OUTPUTS, {"samples": None}),
        (IDLE, {"name": "lunch"}),
        (MEMORY, {"peak_bytes": "much"}),
        (RUNS, {"ns": []}),
        (RUNS, {"ns": [1, "2"]}),
        (RUNS, {"ns": [0] * 1025}),
        (RUNS, {"ns": 5}),
        (POWER, {"sensor": 2}),
        (POWER, {"value": 1 << 63}),
        (BEFORE, {"when": "meanwhile"}),
        (BEFORE, {"frequency_khz": [0] * 5000}),
        (BEFORE, {"battery": {"status": []}}),
        (END, {"event": "fin"}),
        (END, {"event": 7}),
    ],
)
def test_values_that_are_out_of_bounds_are_refused(position: int, values: dict[str, Any]) -> None:
    assert "edgekd's agent" in refused(changed(position, **values))


@pytest.mark.parametrize(
    ("position", "values"),
    [
        (ACTIVE, {"end_ns": 299}),
        (ACTIVE, {"start_ns": 250}),
        (RUNS, {"ns": [90, 20]}),
        (POWER, {"time_ns": 350}),
    ],
)
def test_a_clock_that_jumped_is_found(position: int, values: dict[str, Any]) -> None:
    assert "clock" in refused(changed(position, **values))


def test_a_sensor_that_vanished_tells_nothing_more() -> None:
    after = {**TOLD[POWER], "sensor": 1, "time_ns": 130}
    assert "lost" in refused((*TOLD[: LOST + 1], after, *TOLD[LOST + 1 :]))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"Segmentation fault",
        b"[1, 2]",
        b'"end"',
        b'{"event": "end"',
        b'{"event": "end", "event": "end"}',
        b'{"event": "load", "model": 0, "ns": NaN}',
        b'{"event": "load", "model": 0, "ns": ' + b"9" * 5000 + b"}",
        b'{"event": "\xff"}',
        b"[" * 100_000,
        b'{"event": "' + b"x" * (1 << 20) + b'"}',
    ],
)
def test_a_line_that_is_no_event_is_shown_in_part(line: bytes) -> None:
    message = refused(iter([*list(lines(TOLD[:2])), line]))
    assert "not an event" in message
    assert len(message) < 200


def test_what_a_message_shows_cannot_drive_a_terminal() -> None:
    assert "\x1b" not in refused(iter([b"\x1b[2J\x1b]0;owned\x07 hello"]))
    told = refused(iter([b'{"event": "error", "message": "no\\n\\u001b[31mmodel\\u202e"}']))
    assert told == "pi: the agent says: no [31mmodel"


@pytest.mark.parametrize(
    ("count", "make"),
    [
        (LOST, lambda number: {**TOLD[RUNS], "ns": [0] * 1024}),
        (RUNS, lambda number: {**TOLD[POWER], "time_ns": number}),
        (LOAD + 1, lambda number: {**TOLD[INPUT], "index": number}),
        (IDLE, lambda number: {**TOLD[IDLE], "start_ns": number, "end_ns": number}),
    ],
    ids=["runs", "readings", "tensors", "phases"],
)
def test_valid_events_without_end_are_given_up_on(
    count: int, make: Callable[[int], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekd.runners.job.RUNS_LIMIT", 100_000)
    monkeypatch.setattr("edgekd.runners.job.READINGS_LIMIT", 10_000)
    given = 0

    def endless() -> Iterator[bytes]:
        nonlocal given
        yield from lines(TOLD[:count])
        while True:
            yield json.dumps(make(given)).encode()
            given += 1

    refused(endless())
    assert given <= 10_001


def test_a_description_and_rates_are_read() -> None:
    device = {"event": "device", "machine": "aarch64", "system": "Linux", "release": "6.1", "page_size": 16384}
    told = {**device, "cores": 4, "cpu": None, "memory_bytes": None, "sensors": {"/sys/a": "1"}}
    described = parse_description(lines((told,)))
    assert (described.machine, described.page_size, described.cpu) == ("aarch64", 16384, "unknown")
    assert described.sensors == {"/sys/a": "1"}
    with pytest.raises(DeviceError, match="'sensors'"):
        parse_description(lines(({**told, "sensors": {"/sys/a": 1}},)))
    with pytest.raises(DeviceError, match="once"):
        parse_description(lines((told, told)))
    with pytest.raises(DeviceError, match="without a word"):
        parse_description(lines(()))
    rates = {"event": "rates", "bandwidth_bytes_per_s": 1e9, "float32_flops_per_s": 2, "int8_ops_per_s": 3.5}
    assert parse_rates(lines((rates,))).bandwidth_bytes_per_s == 1e9
    with pytest.raises(DeviceError, match="float32"):
        parse_rates(lines(({**rates, "float32_flops_per_s": -1},)))


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


def test_times_are_numbers_that_do_not_overflow() -> None:
    total = read().models[0].ns
    assert total.dtype == np.int64
