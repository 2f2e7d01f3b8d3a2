"""The quantizer table: every learned scale and zero point, by the tensor that it belongs to."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

INT4 = 4


@dataclass(frozen=True)
class Quantizer:
    """real = scale * (q - zero_point), with q an int8 of `low` to `high`.

    tensor: a parameter's name, or the operation whose output it is.
    scale, zero_point: one entry, or one a channel along `axis`. The scales are float32 values.
    sources: of an activation, the positions in the table of the quantizers that it is computed from.
    """

    tensor: str
    kind: Literal["weight", "activation"]
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    low: int
    high: int
    axis: int | None = None
    sources: tuple[int, ...] = ()
    dtype: str = "int8"

    @property
    def bits(self) -> int:
        """How many its numbers need: 8, or 4 for weights of -7 to 7."""
        return (self.high - self.low).bit_length()


def write_table(table: Sequence[Quantizer], file: Path) -> None:
    file.write_text(json.dumps([dataclasses.asdict(quantizer) for quantizer in table], indent=1))


def read_table(document: list[dict[str, Any]]) -> tuple[Quantizer, ...]:
    """The table from its JSON document; a float written as JSON comes back as the same float."""

    def frozen(entry: dict[str, Any]) -> dict[str, Any]:
        return {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}

    return tuple(Quantizer(**frozen(entry)) for entry in document)


def kept(table: Sequence[Quantizer], precision: str) -> tuple[Quantizer, ...]:
    """The quantizers that a file of this precision must hold."""
    if precision == "int8":
        return tuple(table)
    return tuple(entry for entry in table if entry.kind == "weight") if precision == "int8-weights" else ()


def output_scale(table: Sequence[Quantizer]) -> float:
    """The scale of the output's quantizer: the activation that no other is computed from."""
    used = {source for quantizer in table for source in quantizer.sources}
    last = [q for position, q in enumerate(table) if q.kind == "activation" and position not in used]
    return last[-1].scale[0]
