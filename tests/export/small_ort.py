"""The small students in the ORT format."""

import functools
import tempfile
from pathlib import Path

from edgekd.export import onnx
from edgekd.export.formats import export_program
from edgekd.export.ort import convert
from tests.export.small import FEATURES, PIXELS, quantized

FAMILIES = ("ds_cnn", "resnet")


@functools.cache
def onnx_content(family: str = "ds_cnn") -> bytes:
    """uint8 goes in and is used by the activations as well."""
    with tempfile.TemporaryDirectory() as folder:
        return export_program(quantized(family), "onnx", "int8", Path(folder), PIXELS).read_bytes()


@functools.cache
def signed_onnx_content(family: str = "ds_cnn") -> bytes:
    """float goes in, and the activations are int8."""
    with tempfile.TemporaryDirectory() as folder:
        file, program = Path(folder) / "model.onnx", quantized(family)
        onnx.export(program.frozen(stored=True), program.example, file, "int8", FEATURES)
        return file.read_bytes()


def converted(content: bytes, folder: Path) -> Path:
    """An ONNX file's content as model.onnx and model.ort in a folder."""
    (folder / "model.onnx").write_bytes(content)
    convert(folder / "model.onnx", folder / "model.ort")
    return folder / "model.ort"


@functools.cache
def ort_content(family: str = "ds_cnn") -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return converted(onnx_content(family), Path(folder)).read_bytes()
