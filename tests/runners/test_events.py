"""What the agent tells: whatever is not exactly that is refused in one line."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from edgekd.errors import DeviceError
from edgekd.runners.events import Description, Held, Outcome, Rates, Swept, one_event, parse_events

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
        (LOAD, {"ns": 7.0}),
        (LOAD, {"ns": float("nan")}),
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
        (BEFORE, {"load1": float("inf")}),
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
    monkeypatch.setattr("edgekd.runners.events.RUNS_LIMIT", 100_000)
    monkeypatch.setattr("edgekd.runners.events.READINGS_LIMIT", 10_000)
    given = 0

    def endless() -> Iterator[bytes]:
        nonlocal given
        yield from lines(TOLD[:count])
        while True:
            yield json.dumps(make(given)).encode()
            given += 1

    refused(endless())
    assert given <= 10_001


def test_a_refusal_names_the_event_and_the_key_and_nothing_that_the_device_chose() -> None:
    bad = {"\x1b[2J" * 100: []}
    assert "event 'state': 'battery': " in (message := refused(changed(BEFORE, battery=bad)))
    assert "event 'runs': 'ns': " in refused(changed(RUNS, ns=[10, "\x1b[2J" * 100]))
    assert "event 'load': 'ns': field required" in refused((*TOLD[:LOAD], {"event": "load", "model": 0}))
    assert "event 'tensor': 'dtype' is unknown: [2J" in refused(changed(INPUT, dtype="\x1b[2J" * 100))
    assert "event '[2J" in (unknown := refused(changed(END, event="\x1b[2J" * 100)))
    assert not any(character in message + unknown for character in "\x1b\n")
    assert max(len(message), len(unknown)) < 200


def test_an_answer_is_read_if_it_is_the_only_one_and_of_its_kind() -> None:
    device = {"event": "device", "machine": "aarch64", "system": "Linux", "release": "6.1", "page_size": 16384}
    told = {**device, "cores": 4, "cpu": None, "memory_bytes": None, "sensors": {"/sys/a": "1"}}
    described = one_event(lines((told,)), Description, "pi")
    assert described == Description("aarch64", "Linux", "6.1", 16384, 4, "unknown", None, {"/sys/a": "1"})
    assert "event" not in asdict(described)
    rates = {"event": "rates", "bandwidth_bytes_per_s": 1e9, "float32_flops_per_s": 2, "int8_ops_per_s": 3.5}
    assert one_event(lines((rates,)), Rates, "pi") == Rates(1e9, 2.0, 3.5)
    one_event(lines(({"event": "held"},)), Held, "pi")
    one_event(lines(({"event": "swept", "count": 3},)), Swept, "pi")
    for given, match in (
        (({**told, "sensors": {"/sys/a": 1}},), "'sensors'"),
        ((told, told), "once"),
        ((rates,), "once"),
        ((), "without a word"),
        (({"event": "error", "message": "no"},), "pi: the agent says: no"),
    ):
        with pytest.raises(DeviceError, match=match):
            one_event(lines(given), Description, "pi")
    with pytest.raises(DeviceError, match="float32"):
        one_event(lines(({**rates, "float32_flops_per_s": -1},)), Rates, "pi")


def test_an_answer_is_no_part_of_a_job() -> None:
    assert "'held'" in refused((TOLD[BEFORE], {"event": "held"}))


def test_times_are_numbers_that_do_not_overflow() -> None:
    total = read().models[0].ns
    assert total.dtype == np.int64
