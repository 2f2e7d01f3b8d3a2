"""What each step's result depends on. Kept apart from the steps: a plan is made without loading what they run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekd.recipe import Budgets, Distillation, Quantization, Student
from edgekd.target import CoverageLimits, ParityLimits


@dataclass(frozen=True)
class StudentConfig:
    """A student and how it is distilled."""

    student: Student
    distill: Distillation


@dataclass(frozen=True)
class QuantizeConfig:
    """Quantization-aware training, with the distillation loss that stays on."""

    quantization: Quantization
    temperature: float
    weight: float


@dataclass(frozen=True)
class ExportConfig:
    """The format and the precision to write."""

    format: str
    precision: str


@dataclass(frozen=True)
class VerifyConfig:
    """The limits that an exported file is held to."""

    parity: ParityLimits
    coverage: CoverageLimits
    budgets: Budgets


@dataclass(frozen=True)
class MeasureConfig:
    """Where to measure, and by which protocol. A number from one machine is not taken for another's."""

    device: str
    protocol: str
    machine: Mapping[str, Any]
