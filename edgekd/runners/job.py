"""What the agent is told to do, as text; and what it tells back, as numbers. Nothing that comes back is trusted."""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgekd.errors import DeviceError
from edgekd.runners.streams import printable

FIRST_LINE = "edgekd-job 1"
JOB_LIMIT = 1 << 16
EVENT_LIMIT = 1 << 20
"""Bytes in an event."""
RUNS_LIMIT = 1 << 24
RUNS_IN_A_LINE = 1024
READINGS_LIMIT = 1 << 22
TENSORS_LIMIT = 256
TENSOR_LIMIT = 1 << 32
PHASES_LIMIT = 64
LIST_LIMIT = 4096
SENSORS_LIMIT = 4096
DIMENSIONS_LIMIT = 32
NAME_LIMIT = 4096
LARGEST = (1 << 63) - 1
BITS = {"bool": 8, "bfloat16": 16, "float16": 16, "float32": 32, "float64": 64} | {
    f"{sign}int{bits}": bits for sign in ("", "u") for bits in (4, 8, 16, 32, 64)
}
"""Of an element, by its dtype."""
PHASES = ("idle", "warmup", "active")


@dataclass(frozen=True)
class JobModel:
    """A model of a job, by its names on the device, from the job's folder on.

    runtime: ai-edge-litert, onnxruntime, openvino or tflite-runtime.
    library: its file. inputs: a file of raw bytes for each
    of the model's inputs, N samples one behind the other; none: generated. outputs: files that the agent writes.
    """

    file: str
    runtime: str
    library: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """One run of the agent: one model, or two in turns.

    It goes on until it has both `runs` and `seconds`. blocks: of two models' turns. samples: sensors, by their path,
    that are read every sample_ms. swapped: the second model is loaded first and begins.
    """

    models: tuple[JobModel, ...] = ()
    threads: int = 1
    warmup_runs: int = 1
    warmup_seconds: float = 0.5
    runs: int = 64
    seconds: float = 0.0
    blocks: int | None = None
    idle_seconds: float = 0.0
    sample_ms: int | None = None
    samples: tuple[str, ...] = ()
    lock: str | None = None
    swapped: bool = False

    def text(self) -> str:
        """The job file. Raises DeviceError for a value that does not fit on a line, or a job of more than 64 KiB."""
        lines = [FIRST_LINE]

        def add(key: str, value: str | None) -> None:
            if value is None:
                return
            if not value or not all(character.isprintable() for character in value):
                raise DeviceError(f"job: '{key}' cannot be {printable(repr(value))}; it must be one line of text")
            lines.append(f"{key} {value}")

        add("threads", str(self.threads))
        add("warmup_runs", str(self.warmup_runs))
        add("warmup_seconds", _decimal(self.warmup_seconds))
        add("runs", str(self.runs))
        add("seconds", _decimal(self.seconds))
        add("blocks", None if self.blocks is None else str(self.blocks))
        add("idle_seconds", _decimal(self.idle_seconds))
        add("sample_ms", None if self.sample_ms is None else str(self.sample_ms))
        for sensor in self.samples:
            add("sample", sensor)
        add("lock", self.lock)
        add("swapped", "1" if self.swapped else None)
        for model in self.models:
            add("model", model.file)
            add("runtime", model.runtime)
            add("library", model.library)
            for file in model.inputs:
                add("input", file)
            for file in model.outputs:
                add("output", file)
        text = "\n".join(lines) + "\n"
        if len(text.encode()) > JOB_LIMIT:
            raise DeviceError(f"job: {len(text.encode())} bytes are more than the agent's {JOB_LIMIT}; name less in it")
        return text


@dataclass(frozen=True)
class Tensor:
    """An input or an output of a model. bytes: of one sample."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class Runs:
    """Runs without a pause but their own. ns: each run's nanoseconds, int64, in order; block: of two models' turns."""

    block: int | None
    start_ns: int
    ns: np.ndarray = field(compare=False)


@dataclass(frozen=True)
class ModelOutcome:
    """What was seen of one model. base_bytes: memory before it was loaded; samples: that its outputs hold."""

    base_bytes: int | None
    load_ns: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    samples: int
    runs: tuple[Runs, ...]

    @property
    def ns(self) -> np.ndarray:
        """All runs' nanoseconds, int64, in order."""
        return np.concatenate([one.ns for one in self.runs]) if self.runs else np.zeros(0, np.int64)


@dataclass(frozen=True)
class Phase:
    """A part of the job, on the device's monotonic clock. name: idle, warmup or active."""

    name: str
    start_ns: int
    end_ns: int


@dataclass(frozen=True)
class Readings:
    """A sensor's values, int64, with their times in ns, rising. lost_ns: when it vanished, or None."""

    times_ns: np.ndarray = field(compare=False)
    values: np.ndarray = field(compare=False)
    lost_ns: int | None


@dataclass(frozen=True)
class State:
    """What can change on a device between two moments; None and empty where it does not tell."""

    governor: str | None
    frequency_khz: tuple[int, ...]
    temperature_millicelsius: tuple[int, ...]
    battery: Mapping[str, str | int] | None
    load1: float | None


@dataclass(frozen=True)
class Outcome:
    """What a job brought. waited: another job had the device before; readings: one for each sensor of the job.

    offset_ns: this machine's wall clock less the device's monotonic one, and the time that an event was under way.
    peak_bytes: memory of the whole process at the end of the warm-up; arena_bytes: what the runtime says it uses.
    """

    waited: bool
    before: State
    after: State
    models: tuple[ModelOutcome, ...]
    phases: tuple[Phase, ...]
    offset_ns: int
    peak_bytes: int | None
    arena_bytes: int | None
    readings: tuple[Readings, ...]


@dataclass(frozen=True)
class Description:
    """What a device says of itself. sensors: the first line of each readable sensor file, by its path."""

    machine: str
    system: str
    release: str
    page_size: int
    cores: int
    cpu: str
    memory_bytes: int | None
    sensors: Mapping[str, str]


@dataclass(frozen=True)
class Rates:
    """What one core of a device reached, per second."""

    bandwidth_bytes_per_s: float
    float32_flops_per_s: float
    int8_ops_per_s: float


class Event:
    """One event; each getter raises DeviceError if the value is absent, of another type, or out of bounds."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values, self._where = values, where
        self.name = self.text("event")

    def refuse(self, reason: str) -> DeviceError:
        event = printable(str(self._values.get("event")), 40)
        return DeviceError(f"{self._where}: event '{event}': {reason}; this is not what edgekd's agent prints")

    def text(self, key: str) -> str:
        value = self._values.get(key)
        if not isinstance(value, str) or len(value) > NAME_LIMIT:
            raise self.refuse(f"'{key}' is not a text of at most {NAME_LIMIT} characters")
        return value

    def text_or_none(self, key: str) -> str | None:
        return None if self._absent(key) else self.text(key)

    def whole(self, key: str, most: int = LARGEST) -> int:
        value = self._values.get(key)
        if type(value) is not int or not 0 <= value <= most:
            raise self.refuse(f"'{key}' is not a whole number from 0 to {most}")
        return value

    def whole_or_none(self, key: str, most: int = LARGEST) -> int | None:
        return None if self._absent(key) else self.whole(key, most)

    def signed(self, key: str) -> int:
        value = self._values.get(key)
        if type(value) is not int or abs(value) > LARGEST:
            raise self.refuse(f"'{key}' is not a whole number of 64 bits")
        return value

    def number(self, key: str) -> float:
        value = self._values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise self.refuse(f"'{key}' is not a number from 0 on")
        return float(value)

    def number_or_none(self, key: str) -> float | None:
        return None if self._absent(key) else self.number(key)

    def wholes(self, key: str, most_items: int, least: int = 0) -> list[int]:
        value = self._values.get(key)
        if not isinstance(value, list) or len(value) > most_items:
            raise self.refuse(f"'{key}' is not a list of at most {most_items}")
        if not all(type(item) is int and least <= item <= LARGEST for item in value):
            raise self.refuse(f"'{key}' holds something else than whole numbers of 64 bits")
        return value

    def texts(self, key: str, most_items: int) -> dict[str, str]:
        value = self._values.get(key)
        if not isinstance(value, dict) or len(value) > most_items:
            raise self.refuse(f"'{key}' is not a table of at most {most_items}")
        if not all(isinstance(text, str) and len(text) <= NAME_LIMIT for text in value.values()):
            raise self.refuse(f"'{key}' holds something else than text")
        return value

    def table_or_none(self, key: str) -> dict[str, str | int] | None:
        if self._absent(key):
            return None
        value = self._values[key]
        if not isinstance(value, dict) or not all(
            item is None or type(item) is int or (isinstance(item, str) and len(item) <= NAME_LIMIT)
            for item in value.values()
        ):
            raise self.refuse(f"'{key}' is not a table of text and whole numbers")
        return {name: item for name, item in value.items() if item is not None}

    def _absent(self, key: str) -> bool:
        return key in self._values and self._values[key] is None


def events(lines: Iterable[bytes], where: str) -> Iterator[Event]:
    """The events in the agent's lines. Raises DeviceError for what is not one, and with the text of an error event."""
    for line in lines:
        event = Event(_parsed(line, where), where)
        if event.name == "error":
            raise DeviceError(f"{where}: the agent says: {printable(event.text('message'))}")
        yield event


def one_event(lines: Iterable[bytes], name: str, where: str) -> Event:
    """The only event in the agent's lines, which must be of that name."""
    found: Event | None = None
    for event in events(lines, where):
        if event.name != name or found is not None:
            raise event.refuse(f"'{name}' was expected, once")
        found = event
    if found is None:
        raise DeviceError(f"{where}: the agent ended without a word")
    return found


def parse_description(lines: Iterable[bytes], where: str = "device") -> Description:
    event = one_event(lines, "device", where)
    return Description(
        machine=printable(event.text("machine")),
        system=printable(event.text("system")),
        release=printable(event.text("release")),
        page_size=event.whole("page_size"),
        cores=event.whole("cores"),
        cpu=printable(event.text_or_none("cpu") or "unknown"),
        memory_bytes=event.whole_or_none("memory_bytes"),
        sensors=event.texts("sensors", SENSORS_LIMIT),
    )


def parse_rates(lines: Iterable[bytes], where: str = "device") -> Rates:
    event = one_event(lines, "rates", where)
    return Rates(
        event.number("bandwidth_bytes_per_s"), event.number("float32_flops_per_s"), event.number("int8_ops_per_s")
    )


def parse_events(lines: Iterable[bytes], models: int = 1, sensors: int = 0, where: str = "device") -> Outcome:
    """What a job of that many models and sensors brought.

    Raises DeviceError, named by `where`, at the first line that is not an event, is out of order or out of bounds; at
    times that cannot be; and if the lines end before the job's end.
    """
    reading = _Reading(models, sensors)
    stage = 0
    for event in events(lines, where):
        if event.name not in _STAGES:
            raise event.refuse("it is unknown")
        position, read = _STAGES[event.name]
        if stage == len(_ORDER) or not position(event) >= stage:
            raise event.refuse("it is out of order")
        stage = position(event)
        read(reading, event)
        if event.name == "end":
            stage = len(_ORDER)
    if stage != len(_ORDER):
        raise DeviceError(
            f"{where}: the agent broke off before the end of the job; it was killed, or ran out of memory"
        )
    return reading.outcome(where)


@dataclass
class _Model:
    base_bytes: int | None
    load_ns: int | None = None
    tensors: dict[str, list[Tensor]] = field(default_factory=lambda: {"input": [], "output": []})
    samples: int | None = None
    runs: list[tuple[int | None, int, list[np.ndarray]]] = field(default_factory=list)


class _Reading:
    """The events so far, each checked against those before it."""

    def __init__(self, models: int, sensors: int) -> None:
        self.models: dict[int, _Model] = {}
        self.expected, self.sensors = models, sensors
        self.waited = False
        self.states: dict[str, State] = {}
        self.phases: list[Phase] = []
        self.offsets: list[int] = []
        self.memory: tuple[int | None, int | None] | None = None
        self.count = self.sum_ns = self.reading_count = 0
        self.times: list[list[int]] = [[] for _ in range(sensors)]
        self.values: list[list[int]] = [[] for _ in range(sensors)]
        self.lost: dict[int, int] = {}

    def wait(self, event: Event) -> None:
        if self.waited:
            raise event.refuse("it came twice")
        self.waited = True

    def state(self, event: Event) -> None:
        when = event.text("when")
        if when in self.states:
            raise event.refuse("it came twice")
        self.states[when] = State(
            event.text_or_none("governor"),
            tuple(event.wholes("frequency_khz", LIST_LIMIT)),
            tuple(event.wholes("temperature_millicelsius", LIST_LIMIT, -LARGEST)),
            event.table_or_none("battery"),
            event.number_or_none("load1"),
        )

    def base(self, event: Event) -> None:
        number = event.whole("model", self.expected - 1)
        if number in self.models:
            raise event.refuse("it came twice")
        self.models[number] = _Model(event.whole_or_none("bytes"))

    def load(self, event: Event) -> None:
        model = self._model(event)
        if model.load_ns is not None:
            raise event.refuse("it came twice")
        model.load_ns = event.whole("ns")

    def tensor(self, event: Event) -> None:
        model = self._model(event)
        if model.load_ns is None or model.samples is not None:
            raise event.refuse("it is out of order")
        tensors = model.tensors.get(event.text("kind"))
        if tensors is None or event.whole("index") != len(tensors) or len(tensors) == TENSORS_LIMIT:
            raise event.refuse("'kind' or 'index' is not the next one's")
        dtype = event.text("dtype")
        if dtype not in BITS:
            raise event.refuse(f"'dtype' is unknown: {printable(dtype, 20)}")
        shape, size = tuple(event.wholes("shape", DIMENSIONS_LIMIT)), event.whole("bytes", TENSOR_LIMIT)
        if size != (math.prod(shape) * BITS[dtype] + 7) // 8:
            raise event.refuse(f"'bytes' are {size}, which a {dtype} of that shape has not")
        tensors.append(Tensor(printable(event.text("name")), dtype, shape, size))

    def outputs(self, event: Event) -> None:
        model = self._model(event)
        if model.load_ns is None or model.samples is not None:
            raise event.refuse("it is out of order")
        model.samples = event.whole("samples")

    def phase(self, event: Event) -> None:
        phase = Phase(event.text("name"), event.whole("start_ns"), event.whole("end_ns"))
        if phase.name not in PHASES or len(self.phases) == PHASES_LIMIT:
            raise event.refuse("there is no such phase")
        last = self.phases[-1] if self.phases else None
        if last and PHASES.index(phase.name) < PHASES.index(last.name):
            raise event.refuse("it is out of order")
        if phase.end_ns < phase.start_ns or (last and phase.start_ns < last.end_ns):
            raise event.refuse("the device's clock ran backwards")
        self.phases.append(phase)
        self.offsets.append(time.time_ns() - phase.end_ns)

    def peak(self, event: Event) -> None:
        if self.memory is not None:
            raise event.refuse("it came twice")
        self.memory = event.whole_or_none("peak_bytes"), event.whole_or_none("arena_bytes")

    def run(self, event: Event) -> None:
        model, block, start = self._model(event), event.whole_or_none("block"), event.whole("start_ns")
        ns = event.wholes("ns", RUNS_IN_A_LINE)
        self.count += len(ns)
        self.sum_ns += sum(ns)
        if not ns or self.count > RUNS_LIMIT:
            raise event.refuse(f"'ns' is empty, or there are more than {RUNS_LIMIT} runs")
        active = [phase for phase in self.phases if phase.name == "active"]
        if self.sum_ns > sum(phase.end_ns - phase.start_ns for phase in active):
            raise event.refuse("the runs took longer than the time that they were in; the device's clock jumped")
        if model.runs and model.runs[-1][0] == block:
            model.runs[-1][2].append(np.array(ns, np.int64))
        else:
            model.runs.append((block, start, [np.array(ns, np.int64)]))

    def power(self, event: Event) -> None:
        sensor, moment = self._sensor(event), event.whole("time_ns")
        self.reading_count += 1
        if self.reading_count > READINGS_LIMIT or sensor in self.lost:
            raise event.refuse("the sensor was lost, or told more than there was time for")
        if self.times[sensor] and moment <= self.times[sensor][-1]:
            raise event.refuse("the device's clock ran backwards")
        self.times[sensor].append(moment)
        self.values[sensor].append(event.signed("value"))

    def power_lost(self, event: Event) -> None:
        sensor = self._sensor(event)
        if sensor in self.lost:
            raise event.refuse("it came twice")
        self.lost[sensor] = event.whole("time_ns")

    def end(self, event: Event) -> None:
        whole = len(self.models) == self.expected and all(
            model.runs and model.load_ns is not None for model in self.models.values()
        )
        if not whole or self.memory is None or set(self.states) != {"before", "after"}:
            raise event.refuse("it came before all was told")

    def outcome(self, where: str) -> Outcome:
        assert self.memory is not None
        return Outcome(
            waited=self.waited,
            before=self.states["before"],
            after=self.states["after"],
            models=tuple(_finished(self.models[number]) for number in sorted(self.models)),
            phases=tuple(self.phases),
            offset_ns=min(self.offsets, default=0),
            peak_bytes=self.memory[0],
            arena_bytes=self.memory[1],
            readings=tuple(
                Readings(np.array(times, np.int64), np.array(values, np.int64), self.lost.get(sensor))
                for sensor, (times, values) in enumerate(zip(self.times, self.values, strict=True))
            ),
        )

    def _model(self, event: Event) -> _Model:
        number = event.whole("model", self.expected - 1)
        if number not in self.models:
            raise event.refuse("it is of a model that was not begun")
        return self.models[number]

    def _sensor(self, event: Event) -> int:
        if self.sensors == 0:
            raise event.refuse("no sensor was to be read")
        return event.whole("sensor", self.sensors - 1)


_ORDER = ("waiting", "before", "models", "phases", "memory", "series", "after", "end")


def _at(place: str) -> Callable[[Event], int]:
    return lambda event: _ORDER.index(place)


def _state_at(event: Event) -> int:
    when = event.text("when")
    if when not in ("before", "after"):
        raise event.refuse("'when' is neither before nor after")
    return _ORDER.index(when)


_STAGES: dict[str, tuple[Callable[[Event], int], Callable[[_Reading, Event], None]]] = {
    "waiting": (_at("waiting"), _Reading.wait),
    "state": (_state_at, _Reading.state),
    "base_memory": (_at("models"), _Reading.base),
    "load": (_at("models"), _Reading.load),
    "tensor": (_at("models"), _Reading.tensor),
    "outputs": (_at("models"), _Reading.outputs),
    "phase": (_at("phases"), _Reading.phase),
    "memory": (_at("memory"), _Reading.peak),
    "runs": (_at("series"), _Reading.run),
    "power": (_at("series"), _Reading.power),
    "power_lost": (_at("series"), _Reading.power_lost),
    "end": (_at("end"), _Reading.end),
}
"""For each event, its place in the order and what it adds."""


def _finished(model: _Model) -> ModelOutcome:
    assert model.load_ns is not None
    return ModelOutcome(
        model.base_bytes,
        model.load_ns,
        tuple(model.tensors["input"]),
        tuple(model.tensors["output"]),
        model.samples or 0,
        tuple(Runs(block, start, np.concatenate(parts)) for block, start, parts in model.runs),
    )


def _decimal(seconds: float) -> str:
    return f"{seconds:.9f}".rstrip("0").rstrip(".")


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        if len(line) > EVENT_LIMIT:
            raise ValueError
        values = json.loads(line.decode(), parse_constant=_no_constant, object_pairs_hook=_no_doubles)
        if not isinstance(values, dict):
            raise ValueError
    except (ValueError, RecursionError):
        what = printable(line, 60) or "an empty line"
        raise DeviceError(
            f"{where}: it printed what is not an event of edgekd's agent: {what}; see what its login prints"
        ) from None
    return values


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key stands twice")
    return values
