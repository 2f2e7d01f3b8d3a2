"""A quantized program or a float model in the format of a target."""

from pathlib import Path

import torch
from torch import nn

from edgekd.compress.fold import fold_batch_norm
from edgekd.compress.program import QuantizedProgram
from edgekd.export import onnx, tflite
from edgekd.target import Target

MODEL_FILE = {"tflite": "model.tflite", "onnx": "model.onnx"}


def export(program: QuantizedProgram, target: Target, folder: Path, raw_pixels: bool = False) -> Path:
    """Write the program in the target's format and precision into `folder`; returns the file.

    raw_pixels: the input's quantizer is the pixel grid, so that a format with a float input can take uint8 instead.
    Raises ExportError with the converter's reason.
    """
    return export_program(program, target.format, folder, raw_pixels)


def export_program(program: QuantizedProgram, format_name: str, folder: Path, raw_pixels: bool) -> Path:
    """Write the quantized program in full integer. Raises ExportError with the converter's reason."""
    file = folder / MODEL_FILE[format_name]
    if format_name == "onnx":
        onnx.export_int8(program.frozen(stored=True, unsigned=True), program.example, file, raw_pixels)
    else:
        tflite.export_int8(program.frozen(stored=False), program.example, file)
    return file


def export_float(model: nn.Module, example: torch.Tensor, format_name: str, folder: Path) -> Path:
    """Write a float32 model, batch norm folded. Raises ExportError with the converter's reason."""
    file = folder / MODEL_FILE[format_name]
    write = onnx.export_float32 if format_name == "onnx" else tflite.export_float32
    write(fold_batch_norm(model, example), example, file)
    return file
