"""What to make: one TOML file in `targets/` a target."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from edgekd.config import STRICT, nearest, read_config, read_text
from edgekd.errors import UsageError
from edgekd.fields import Count, Positive, Share
from edgekd.resources import TARGETS

Format = Literal["tflite", "onnx", "ort", "openvino", "coreml"]
Runtime = Literal["ai-edge-litert", "tflite-runtime", "onnxruntime", "openvino", "coreml"]
Precision = Literal["float32", "float16", "int8", "int8-weights"]

Limit = Annotated[int, Field(ge=0)]

FORMATS: dict[Runtime, tuple[Format, ...]] = {
    "ai-edge-litert": ("tflite",),
    "tflite-runtime": ("tflite",),
    "onnxruntime": ("onnx", "ort"),
    "openvino": ("openvino",),
    "coreml": ("coreml",),
}
"""What each runtime opens."""


@dataclass(frozen=True, config=STRICT)
class ParityLimits:
    """How far an exported file may be from the quantization-aware trained model."""

    agreement: Share
    """Smallest share of samples with the same answer."""
    max_lsb: Positive | None = None
    """Largest difference of an output in steps of its scale, for full-integer models."""
    max_abs_diff: Positive | None = None
    """Largest difference of an output, for the others."""
    samples: Count = 200
    """Fewest real samples to compare on; the whole test split is used where it is larger."""


@dataclass(frozen=True, config=STRICT)
class CoverageLimits:
    """What the runtime may do behind one's back; no limit where none is given."""

    undelegated: Limit | None = None
    """Operations outside the runtime's fast path, table lookups apart."""
    layout_changes: Limit | None = None
    """Transposes beyond those of the student's own code."""
    float_islands: Limit | None = None
    """Groups of operations that a full-integer model computes in float."""


@dataclass(frozen=True, config=STRICT)
class Target:
    """A format, the runtime that loads it, its precision, and the limits it is held to.

    precision: `int8` is full integer; `int8-weights` has the learned int8 weights and float activations; `float16` has
    weights in half precision, and computes in it where the format says so itself (Core ML).
    output: what the numbers that come out are.
    """

    title: str
    format: Format
    runtime: Runtime
    precision: Precision
    output: Literal["logits", "probabilities"]
    parity: ParityLimits
    coverage: CoverageLimits
    devices: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.format not in FORMATS[self.runtime]:
            known = ", ".join(name for name, formats in FORMATS.items() if self.format in formats)
            raise ValueError(f"runtime: {self.runtime} does not open {self.format} files; known: {known}")
        if (self.format, self.precision) == ("ort", "float16"):
            raise ValueError("precision: an ort file has no float16, its converter widens it; use onnx, or another one")
        wanted = "max_lsb" if self.precision == "int8" else "max_abs_diff"
        if getattr(self.parity, wanted) is None:
            raise ValueError(f"parity: {self.precision} needs '{wanted}'; add it")

    @property
    def takes_int4(self) -> bool:
        """May weights of 4 bits be stored as such? The last tflite-runtime refuses the file."""
        return self.runtime != "tflite-runtime"


def target_names() -> list[str]:
    return sorted(file.stem for file in TARGETS.glob("*.toml"))


def target_label(name: str) -> str:
    """What a target and its folder are called: for a file, its name without the suffix.

    Raises UsageError for a file whose name is no name for a folder.
    """
    if not name.endswith(".toml"):
        return name
    label = Path(name).stem
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", label):
        raise UsageError(f"target '{name}': the file's name has more than letters, digits, '.', '_' and '-'; rename it")
    return label


def load_target(name: str) -> Target:
    """Read a target by its name, or from a TOML file of the user's.

    Raises UsageError, with the nearest name, if there is none, or if the file does not hold together.
    """
    if name.endswith(".toml"):
        file = Path(name)
    elif name in (names := target_names()):
        file = TARGETS / f"{name}.toml"
    else:
        raise UsageError(f"target '{name}' is not known; {nearest(name, names)}")
    return read_config(Target, read_text(file), str(file))
