"""What to make: one TOML file in `targets/` a target."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from edgekd.config import STRICT, nearest, read_config, read_text
from edgekd.errors import UsageError
from edgekd.resources import TARGETS


@dataclass(frozen=True, config=STRICT)
class ParityLimits:
    """How far an exported file may be from the quantization-aware trained model."""

    agreement: Annotated[float, Field(ge=0, le=1)]
    """Smallest share of samples with the same answer."""
    max_lsb: Annotated[float, Field(gt=0)]
    """Largest difference of an output, in steps of the output's scale."""
    samples: Annotated[int, Field(ge=1)] = 200
    """Fewest real samples to compare on; the whole test split is used where it is larger."""


@dataclass(frozen=True, config=STRICT)
class CoverageLimits:
    """What the runtime may do behind one's back."""

    undelegated: Annotated[int, Field(ge=0)]
    layout_changes: Annotated[int, Field(ge=0)]


@dataclass(frozen=True, config=STRICT)
class Target:
    """A format, the runtime that loads it, its precision, and the limits it is held to."""

    title: str
    format: Literal["tflite", "onnx", "openvino"]
    runtime: Literal["ai-edge-litert", "onnxruntime", "openvino"]
    precision: Literal["int8"]
    parity: ParityLimits
    coverage: CoverageLimits
    devices: tuple[str, ...]


def target_names() -> list[str]:
    return sorted(file.stem for file in TARGETS.glob("*.toml"))


def load_target(name: str) -> Target:
    """Read a target by its name; raises UsageError, with the nearest name, if there is none."""
    names = target_names()
    if name not in names:
        raise UsageError(f"target '{name}' is not known; {nearest(name, names)}")
    file = TARGETS / f"{name}.toml"
    return read_config(Target, read_text(file), str(file))
