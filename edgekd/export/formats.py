"""A quantized program or a float model in the format and the precision of a target."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from edgekd.compress.fold import fold_batch_norm
from edgekd.compress.program import QuantizedProgram
from edgekd.compress.quantizers import INT4, Quantizer
from edgekd.export import onnx, openvino, tflite
from edgekd.export.card import Card
from edgekd.target import Format, Precision, Target

MODEL_FILE: dict[Format, str] = {
    "tflite": "model.tflite",
    "onnx": "model.onnx",
    "ort": "model.ort",
    "openvino": "model.xml",
    "coreml": "model.mlpackage",
}


def export(program: QuantizedProgram, target: Target, folder: Path, card: Card) -> Path:
    """Write the program in the target's format and precision into `folder`; returns the file.

    Raises ExportError with the converter's reason, ValueError for a float target: see `export_float`.
    """
    return export_program(program, target.format, target.precision, folder, card, target.takes_int4)


def export_program(
    program: QuantizedProgram, format_name: Format, precision: Precision, folder: Path, card: Card, int4: bool = True
) -> Path:
    """Write the quantized program: `int8`, full integer, or `int8-weights`, its weights alone.

    int4: store weights of 4 bits two a byte, for the layers where the format's runtime computes the same with them as
    fast; all others are the same numbers in 8 bits. Raises ExportError with the converter's reason.
    """
    if precision not in ("int8", "int8-weights"):
        raise ValueError(f"a quantized program cannot be written as {precision}")
    integers = precision == "int8"
    int4 = int4 and any(entry.bits == INT4 for entry in program.table)
    if format_name == "tflite":
        model = program.frozen(stored=False, activations=integers)
    else:
        model = program.frozen(stored=True, unsigned=format_name != "coreml", activations=integers)
    return _write(model, program.example, format_name, precision, folder, card, program.table, int4)


def export_float(
    model: nn.Module, example: torch.Tensor, format_name: Format, precision: Precision, folder: Path, card: Card
) -> Path:
    """Write a float model, batch norm folded, as `float32` or `float16`.

    Raises ExportError with the converter's reason.
    """
    return _write(fold_batch_norm(model, example), example, format_name, precision, folder, card)


def _write(
    model: nn.Module,
    example: torch.Tensor,
    format_name: Format,
    precision: Precision,
    folder: Path,
    card: Card,
    table: Sequence[Quantizer] = (),
    int4: bool = False,
) -> Path:
    file = folder / MODEL_FILE[format_name]
    if card.output == "probabilities":
        model = _Probabilities(model, card.is_classifier)
    if format_name == "coreml":
        from edgekd.export import coreml

        coreml.export(model, example, file, card, half=precision != "float32", pixels=card.pixels)
        return file
    if card.pixels is not None and precision != "int8":
        model = _FromPixels(model, *card.pixels)
        example = torch.zeros(example.shape, dtype=torch.float32 if format_name == "tflite" else torch.uint8)
    if format_name == "tflite":
        tflite.export(model, example, file, precision, card, table, int4)
        return file
    with _onnx_of(file) as onnx_file:
        onnx.export(model, example, onnx_file, precision, card, int4 and format_name == "onnx")
        if format_name == "openvino":
            openvino.convert(onnx_file, file, half=precision == "float16", card=card, int4=int4)
        elif format_name == "ort":
            from edgekd.export import ort

            ort.convert(onnx_file, file)
    return file


class _Probabilities(nn.Module):
    """A model with its logits made probabilities, of classes that exclude each other or of each label by itself."""

    def __init__(self, model: nn.Module, exclusive: bool) -> None:
        super().__init__()
        self.model, self.exclusive = model, exclusive

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(inputs)
        return torch.softmax(logits, dim=1) if self.exclusive else torch.sigmoid(logits)


class _FromPixels(nn.Module):
    """A model with the normalisation of raw pixels in front of it."""

    def __init__(self, model: nn.Module, mean: float, std: float) -> None:
        super().__init__()
        self.model, self.mean, self.std = model, mean, std

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.model((pixels.float() - self.mean) / self.std)
        return outputs


@contextmanager
def _onnx_of(file: Path) -> Iterator[Path]:
    """Where the ONNX file goes: the result itself, or a passing one that the result is converted from."""
    if file.suffix == ".onnx":
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="edgekd-") as place:
        yield Path(place) / "model.onnx"
