"""A quantized program or a float model in the format of a target."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from edgekd.compress.fold import fold_batch_norm
from edgekd.compress.program import QuantizedProgram
from edgekd.export import onnx, openvino, tflite
from edgekd.target import Target

MODEL_FILE = {"tflite": "model.tflite", "onnx": "model.onnx", "openvino": "model.xml"}


def export(program: QuantizedProgram, target: Target, folder: Path, raw_pixels: bool = False) -> Path:
    """Write the program in the target's format and precision into `folder`; returns the file.

    raw_pixels: the input's quantizer is the pixel grid, so that a format with a float input can take uint8 instead.
    Raises ExportError with the converter's reason.
    """
    return export_program(program, target.format, folder, raw_pixels)


def export_program(program: QuantizedProgram, format_name: str, folder: Path, raw_pixels: bool = False) -> Path:
    """Write the quantized program in full integer. Raises ExportError with the converter's reason."""
    file = folder / MODEL_FILE[format_name]
    if format_name == "tflite":
        tflite.export_int8(program.frozen(stored=False), program.example, file)
        return file
    with _onnx_of(file) as onnx_file:
        onnx.export_int8(program.frozen(stored=True, unsigned=True), program.example, onnx_file, raw_pixels)
        if format_name == "openvino":
            openvino.convert(onnx_file, file)
    return file


def export_float(model: nn.Module, example: torch.Tensor, format_name: str, folder: Path) -> Path:
    """Write a float32 model, batch norm folded. Raises ExportError with the converter's reason."""
    file, folded = folder / MODEL_FILE[format_name], fold_batch_norm(model, example)
    if format_name == "tflite":
        tflite.export_float32(folded, example, file)
        return file
    with _onnx_of(file) as onnx_file:
        onnx.export_float32(folded, example, onnx_file)
        if format_name == "openvino":
            openvino.convert(onnx_file, file)
    return file


@contextmanager
def _onnx_of(file: Path) -> Iterator[Path]:
    """Where the ONNX file goes: the result itself, or a passing one that the result is converted from."""
    if file.suffix == ".onnx":
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="edgekd-") as place:
        yield Path(place) / "model.onnx"
