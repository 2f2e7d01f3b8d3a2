"""A file of a student that nobody trained for it: calibrated on a few samples, to look at or to time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from edgekd.compress.qat import quantize
from edgekd.compress.quantizers import Quantizer, kept
from edgekd.export.card import Card
from edgekd.export.formats import export, export_float
from edgekd.target import Target
from edgekd.tasks.dataset import pixel_range

SAMPLES = 8
"""Enough to calibrate on where nobody looks at the answers."""


@dataclass(frozen=True)
class Draft:
    """source: what the file was written from. table: the quantizers that it must hold."""

    file: Path
    source: nn.Module
    table: Sequence[Quantizer]


def draft(
    module: nn.Module, samples: torch.Tensor, target: Target, card: Card, folder: Path, weight_bits: int = 8
) -> Draft:
    """Write a float student in a target's format and precision. samples: inputs, shape (N, ...).

    Raises ExportError naming the operation and the layer that the format does not have.
    """
    if target.precision in ("float32", "float16"):
        example = torch.zeros_like(samples[:1])
        file = export_float(module, example, target.format, target.precision, folder, card)
        return Draft(file, module, kept((), target.precision))
    program = quantize(module, samples, None, pixel_range(card.preprocessing), weight_bits=weight_bits)
    file = export(program, target, folder, card)
    return Draft(file, program.frozen(stored=False), kept(program.table, target.precision))
