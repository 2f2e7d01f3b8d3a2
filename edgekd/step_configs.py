"""What each step's result depends on. Kept apart from the steps: a plan is made without loading what they run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgekd.compress.order import Shrinking
from edgekd.distill.config import ObjectiveConfig
from edgekd.recipe import Budgets, Quantization, Student, Task, Teacher, TorchTeacher, Training
from edgekd.target import CoverageLimits, Format, ParityLimits, Precision, Runtime, Target


@dataclass(frozen=True)
class TeacherConfig:
    """A teacher, and the task whose raw samples it may look at; None for one that is given the student's inputs."""

    teacher: Teacher
    task: Task | None


@dataclass(frozen=True)
class ObjectiveCheckConfig:
    """What is tried before it is trained: an objective over a student and a teacher, on a task's data. A teacher that
    only answers is None.
    """

    task: Task
    teacher: TorchTeacher | None
    student: Student
    objective: ObjectiveConfig


@dataclass(frozen=True)
class StudentConfig:
    """A student, what it minimises, and how long."""

    student: Student
    objective: ObjectiveConfig
    train: Training


@dataclass(frozen=True)
class Timing:
    """What a latency is taken of, and where: a target's file, on the machine that builds.

    weight_bits: of the recipe's quantization. on: see `edgekd.runners.measurable.measured_on`.
    """

    target: Target
    weight_bits: int
    on: Mapping[str, Any]


@dataclass(frozen=True)
class CompressConfig:
    """What shrinks a float student, and the losses by which it recovers. timing: of pruning by a share of latency."""

    compression: Shrinking
    objective: ObjectiveConfig
    timing: Timing | None = None


@dataclass(frozen=True)
class CompressionCheckConfig:
    """What is tried before anything is trained: everything that is to shrink a student, on a task's data."""

    task: Task
    student: Student
    compress: tuple[Shrinking, ...]
    timings: tuple[Timing | None, ...]
    """Of each."""


@dataclass(frozen=True)
class QuantizeConfig:
    """A quantization, and the losses that stay on while it is trained."""

    quantization: Quantization
    objective: ObjectiveConfig


@dataclass(frozen=True)
class ExportConfig:
    """The format and the precision to write, what comes out, and the name that the file gives itself.

    int4: store weights of 4 bits as such where they can be.
    """

    format: Format
    precision: Precision
    output: Literal["logits", "probabilities"]
    name: str
    int4: bool = False


@dataclass(frozen=True)
class PreflightConfig:
    """What is tried before it is trained: a student on a task's data, for a target, and if there are as many samples
    to calibrate it on as are asked for.
    """

    task: Task
    student: Student
    target: Target
    weight_bits: int
    calibration_samples: int | None


@dataclass(frozen=True)
class VerifyConfig:
    """What an exported file is opened with, and the limits that it is held to."""

    runtime: Runtime
    precision: Precision
    output: Literal["logits", "probabilities"]
    parity: ParityLimits
    coverage: CoverageLimits
    budgets: Budgets


@dataclass(frozen=True)
class MeasureConfig:
    """What is measured where, and by which protocol. A number from one machine is not taken for another's.

    on: see `edgekd.runners.measurable.measured_on`. agreement: the least share of samples that a verified file must
    answer on the device as it does here.
    """

    runtime: Runtime
    precision: Precision
    device: str
    protocol: str
    on: Mapping[str, Any]
    agreement: float
