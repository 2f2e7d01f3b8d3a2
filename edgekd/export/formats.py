"""A quantized program or a float model in the format of a target."""

from pathlib import Path

import torch
from torch import nn

from edgekd.compress.fold import fold_batch_norm
from edgekd.compress.program import QuantizedProgram
from edgekd.export import tflite
from edgekd.target import Target

MODEL_FILE = {"tflite": "model.tflite"}


def export(program: QuantizedProgram, target: Target, folder: Path) -> Path:
    """Write the program in the target's format and precision into `folder`; returns the file.

    Raises ExportError with the converter's reason.
    """
    return export_program(program, target.format, folder)


def export_program(program: QuantizedProgram, format_name: str, folder: Path) -> Path:
    """Write the quantized program in full integer. Raises ExportError with the converter's reason."""
    file = folder / MODEL_FILE[format_name]
    tflite.export_int8(program.frozen(stored=False), program.example, file)
    return file


def export_float(model: nn.Module, example: torch.Tensor, format_name: str, folder: Path) -> Path:
    """Write a float32 model, batch norm folded. Raises ExportError with the converter's reason."""
    file = folder / MODEL_FILE[format_name]
    tflite.export_float32(fold_batch_norm(model, example), example, file)
    return file
