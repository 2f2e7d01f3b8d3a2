"""What the agent tells, one JSON object a line, and what it comes to. Nothing that comes back is trusted."""

import dataclasses
import itertools
import math
import re
import time
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import InitVar
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from edgekd.errors import DeviceError
from edgekd.runners.streams import printable

T = TypeVar("T")

EVENT_LIMIT = 1 << 20
"""Bytes in an event."""
RUNS_LIMIT = 1 << 26
"""A minute of a model that takes a microsecond."""
READINGS_LIMIT = 1 << 22
TENSORS_LIMIT = 256
PHASES_LIMIT = 64
PHASES = ("idle", "warmup", "active")
BITS = {"bool": 8, "bfloat16": 16, "float16": 16, "float32": 32, "float64": 64} | {
    f"{sign}int{bits}": bits for sign in ("", "u") for bits in (4, 8, 16, 32, 64)
}
"""Of an element, by its dtype."""
LARGEST = (1 << 63) - 1
CHECKED = ConfigDict(strict=True, allow_inf_nan=False)
"""Of what is read as it is told; where `event` is an InitVar, it tells one kind from another and is not kept."""

Whole = Annotated[int, Field(ge=0, le=LARGEST)]
Signed = Annotated[int, Field(ge=-LARGEST, le=LARGEST)]
Number = Annotated[float, Field(ge=0)]
Text = Annotated[str, Field(max_length=4096)]
Line = Annotated[Text, AfterValidator(lambda text: printable(text))]
A_LIST = Field(max_length=4096)


@dataclass(frozen=True, config=CHECKED)
class Tensor:
    """An input or an output of a model. bytes: of one sample."""

    name: Line
    dtype: Text
    shape: Annotated[tuple[Whole, ...], Field(max_length=32)]
    bytes: Annotated[int, Field(ge=0, le=1 << 32)]

    def __post_init__(self) -> None:
        if self.dtype not in BITS:
            raise ValueError(f"'dtype' is unknown: {printable(self.dtype, 20)}")
        if self.bytes != (math.prod(self.shape) * BITS[self.dtype] + 7) // 8:
            raise ValueError(f"'bytes' are {self.bytes}, which a {self.dtype} of that shape has not")


@dataclasses.dataclass(frozen=True)
class Runs:
    """Runs without a pause but their own. ns: each run's nanoseconds, int64, in order; block: of two models' turns."""

    block: int | None
    start_ns: int
    ns: np.ndarray = dataclasses.field(compare=False)


@dataclasses.dataclass(frozen=True)
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


@dataclass(frozen=True, config=CHECKED)
class Phase:
    """A part of the job, on the device's monotonic clock. name: idle, warmup or active."""

    name: Text
    start_ns: Whole
    end_ns: Whole
    event: InitVar[Literal["phase"]] = "phase"


@dataclasses.dataclass(frozen=True)
class Readings:
    """A sensor's values, int64, with their times in ns, rising. lost_ns: when it vanished, or None."""

    times_ns: np.ndarray = dataclasses.field(compare=False)
    values: np.ndarray = dataclasses.field(compare=False)
    lost_ns: int | None


@dataclass(frozen=True, config=CHECKED)
class State:
    """What can change on a device between two moments; None and empty where it does not tell."""

    governor: Text | None
    frequency_khz: Annotated[tuple[Whole, ...], A_LIST]
    temperature_millicelsius: Annotated[tuple[Signed, ...], A_LIST]
    battery: Annotated[dict[Text, Text | Signed], A_LIST] | None
    load1: Number | None


@dataclasses.dataclass(frozen=True)
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


@dataclass(frozen=True, config=CHECKED)
class Description:
    """What a device says of itself. sensors: the first line of each readable sensor file, by its path."""

    machine: Line
    system: Line
    release: Line
    page_size: Whole
    cores: Whole
    cpu: Annotated[Line, BeforeValidator(lambda told: "unknown" if told in (None, "") else told)]
    memory_bytes: Whole | None
    sensors: Annotated[dict[Text, Text], A_LIST]
    event: InitVar[Literal["device"]] = "device"


@dataclass(frozen=True, config=CHECKED)
class Rates:
    """What one core of a device reached, per second."""

    bandwidth_bytes_per_s: Number
    float32_flops_per_s: Number
    int8_ops_per_s: Number
    event: InitVar[Literal["rates"]] = "rates"


@dataclass(frozen=True, config=CHECKED)
class _State(State):
    event: Literal["state"]
    when: Literal["before", "after"]


@dataclass(frozen=True, config=CHECKED)
class _Tensor(Tensor):
    event: Literal["tensor"]
    model: Whole
    kind: Literal["input", "output"]
    index: Whole


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class Held(_Event):
    event: Literal["held"]


class Swept(_Event):
    event: Literal["swept"]


class _Error(_Event):
    event: Literal["error"]
    message: Text


class _Bare(_Event):
    event: Literal["waiting", "end"]


class _BaseMemory(_Event):
    event: Literal["base_memory"]
    model: Whole
    bytes: Whole | None


class _Load(_Event):
    event: Literal["load"]
    model: Whole
    ns: Whole


class _Outputs(_Event):
    event: Literal["outputs"]
    model: Whole
    samples: Whole


class _Memory(_Event):
    event: Literal["memory"]
    peak_bytes: Whole | None
    arena_bytes: Whole | None


class _Runs(_Event):
    event: Literal["runs"]
    model: Whole
    block: Whole | None
    start_ns: Whole
    ns: Annotated[list[Whole], Field(min_length=1, max_length=1024)]


class _Power(_Event):
    event: Literal["power"]
    sensor: Whole
    time_ns: Whole
    value: Signed


class _PowerLost(_Event):
    event: Literal["power_lost"]
    sensor: Whole
    time_ns: Whole


_OfModel = _Runs | _BaseMemory | _Load | _Tensor | _Outputs
_OfSensor = _Power | _PowerLost
_Told = _OfSensor | _OfModel | _Bare | _State | Phase | _Memory | Held | Swept | Description | Rates | _Error
_TOLD: TypeAdapter[_Told] = TypeAdapter(Annotated[_Told, Field(discriminator="event")])
_TEXT = re.compile(rb'"([^"\\]*(?:\\.[^"\\]*)*)"\s*(:?)')
"""In JSON, with the colon behind it if it is a key."""
_RULES = {
    "waiting": (0, None, "waiting"),
    "before": (1, None, "before"),
    "base_memory": (2, None, "base_memory"),
    "load": (2, "base_memory", "load"),
    "tensor": (2, "load", "outputs"),
    "outputs": (2, "load", "outputs"),
    "phase": (3, None, None),
    "memory": (4, None, "memory"),
    "runs": (5, "load", None),
    "power": (5, None, "power_lost"),
    "power_lost": (5, None, "power_lost"),
    "after": (6, None, "after"),
    "end": (7, None, "end"),
}
"""For each event of a job: its stage, which never falls; what it must follow, and cannot, of its model or sensor."""


def one_event(lines: Iterable[bytes], kind: type[T], where: str) -> T:
    """The only event in the agent's lines, which must be of that kind: Description, Rates, Held or Swept."""
    found: T | None = None
    for told in _events(lines, where):
        if not isinstance(told, kind) or found is not None:
            raise _refusal(where, _name(told), "another one was expected, once")
        found = told
    if found is None:
        raise DeviceError(f"{where}: the agent ended without a word")
    return found


def parse_events(lines: Iterable[bytes], models: int = 1, sensors: int = 0, where: str = "device") -> Outcome:
    """What a job of that many models and sensors brought.

    Raises DeviceError, named by `where`, at the first line that is not an event, is out of order or out of bounds; at
    times that cannot be; and if the lines end before the job's end.
    """
    job = _Job(models, sensors, where)
    for told in _events(lines, where):
        job.add(_name(told), told)
    return job.outcome()


class _Job:
    """What a job told so far, each event checked against those before it."""

    def __init__(self, models: int, sensors: int, where: str) -> None:
        self.where, self.models = where, models
        self.stage = self.active_ns = self.run_ns = self.run_count = self.reading_count = 0
        self.last: dict[tuple[str, int], Any] = {}
        self.tensors: dict[tuple[str, int], list[Tensor]] = defaultdict(list)
        self.runs: dict[int, list[Runs]] = defaultdict(list)
        self.readings = [(array("q"), array("q")) for _ in range(sensors)]
        self.phases: list[Phase] = []
        self.offsets_ns: list[int] = []

    def add(self, name: str, told: _Told) -> None:
        def check(holds: bool, otherwise: str) -> None:
            if not holds:
                raise _refusal(self.where, name, otherwise)

        check(name in _RULES, "a job does not bring it")
        stage, after, unless = _RULES[name]
        number, count = 0, 1
        if isinstance(told, _OfSensor):
            number, count = told.sensor, len(self.readings)
        elif isinstance(told, _OfModel):
            number, count = told.model, self.models
        check(number < count, "it is of a model or sensor that the job does not have")
        in_order = stage >= self.stage and (after is None or (after, number) in self.last)
        check(in_order and (unless, number) not in self.last, "it is out of order, was lost, or came twice")
        self.stage = stage
        self.last[name, number] = told
        match told:
            case _Power():
                times, values = self.readings[number]
                self.reading_count += 1
                check(self.reading_count <= READINGS_LIMIT, f"there are more than {READINGS_LIMIT} readings")
                check(not times or times[-1] < told.time_ns, "the device's clock ran backwards")
                times.append(told.time_ns)
                values.append(told.value)
            case _Runs():
                self.run_count += len(told.ns)
                check(self.run_count <= RUNS_LIMIT, f"there are more than {RUNS_LIMIT} runs")
                self.run_ns += sum(told.ns)
                check(self.run_ns <= self.active_ns, "runs took longer than all of them; the device's clock jumped")
                self.runs[number].append(Runs(told.block, told.start_ns, np.array(told.ns, np.int64)))
            case _Tensor():
                tensors = self.tensors[told.kind, number]
                check(told.index == len(tensors) < TENSORS_LIMIT, "'index' is not the next one's")
                tensors.append(_plain(Tensor, told))
            case Phase():
                before = self.phases[-1] if self.phases else Phase(PHASES[0], 0, 0)
                check(told.name in PHASES and len(self.phases) < PHASES_LIMIT, "there is no such phase")
                check(PHASES.index(before.name) <= PHASES.index(told.name), "it is out of order")
                check(before.end_ns <= told.start_ns <= told.end_ns, "the device's clock ran backwards")
                self.phases.append(told)
                self.offsets_ns.append(time.time_ns() - told.end_ns)
                self.active_ns += told.end_ns - told.start_ns if told.name == "active" else 0
            case _Bare(event="end"):
                whole = {("before", 0), ("memory", 0), ("after", 0)} <= set(self.last) and len(self.runs) == self.models
                check(whole, "it came before all was told")

    def outcome(self) -> Outcome:
        if ("end", 0) not in self.last:
            raise DeviceError(
                f"{self.where}: the agent broke off before the end of the job; it was killed, or ran out of memory"
            )
        return Outcome(
            waited=("waiting", 0) in self.last,
            before=_plain(State, self.last["before", 0]),
            after=_plain(State, self.last["after", 0]),
            models=tuple(self._model(model) for model in range(self.models)),
            phases=tuple(self.phases),
            offset_ns=min(self.offsets_ns, default=0),
            peak_bytes=self.last["memory", 0].peak_bytes,
            arena_bytes=self.last["memory", 0].arena_bytes,
            readings=tuple(self._readings(sensor) for sensor in range(len(self.readings))),
        )

    def _model(self, model: int) -> ModelOutcome:
        blocks = (list(lines) for _, lines in itertools.groupby(self.runs[model], key=lambda line: line.block))
        return ModelOutcome(
            base_bytes=self.last["base_memory", model].bytes,
            load_ns=self.last["load", model].ns,
            inputs=tuple(self.tensors["input", model]),
            outputs=tuple(self.tensors["output", model]),
            samples=getattr(self.last.get(("outputs", model)), "samples", 0),
            runs=tuple(Runs(of[0].block, of[0].start_ns, np.concatenate([one.ns for one in of])) for of in blocks),
        )

    def _readings(self, sensor: int) -> Readings:
        times, values = self.readings[sensor]
        lost_ns = getattr(self.last.get(("power_lost", sensor)), "time_ns", None)
        return Readings(np.array(times), np.array(values), lost_ns)


def _name(told: Any) -> str:
    """What an event is called; a state, by when it was."""
    return str(told.when if isinstance(told, _State) else told.event)


def _plain(kind: type[T], told: Any) -> T:
    """What was told, without what makes it an event."""
    return kind(**{field.name: getattr(told, field.name) for field in dataclasses.fields(kind)})  # type: ignore[arg-type]


def _events(lines: Iterable[bytes], where: str) -> Iterator[_Told]:
    for line in lines:
        try:
            told = _TOLD.validate_json(line if len(line) <= EVENT_LIMIT else b"")
        except ValidationError as error:
            raise _explained(error, line, where) from None
        keys = [key for key, colon in _TEXT.findall(line) if colon]
        if len(set(keys)) < len(keys):
            raise _no_event(line, where)
        if type(told) is _Error:
            raise DeviceError(f"{where}: the agent says: {printable(told.message)}")
        yield told


def _explained(error: ValidationError, line: bytes, where: str) -> DeviceError:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "union_tag_invalid":
        return _refusal(where, first["ctx"]["tag"], "it is unknown")
    if not first["loc"]:
        return _no_event(line, where)
    event, *keys = first["loc"]
    reason = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return _refusal(where, str(event), f"'{keys[0]}': {reason[0].lower()}{reason[1:]}" if keys else reason)


def _no_event(line: bytes, where: str) -> DeviceError:
    what = printable(line, 60) or "an empty line"
    return DeviceError(f"{where}: it printed what is not an event of edgekd's agent: {what}; see what its login prints")


def _refusal(where: str, event: str, reason: str) -> DeviceError:
    return DeviceError(f"{where}: event '{printable(event, 40)}': {reason}; this is not what edgekd's agent prints")
