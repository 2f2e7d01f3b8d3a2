"""The small students in the ORT format."""

import functools
import tempfile
from pathlib import Path

from edgekd.export import onnx
from edgekd.export.ort import convert
from tests.export.small import FEATURES, contents, quantized

FAMILIES = ("ds_cnn", "resnet")


def onnx_content(family: str = "ds_cnn") -> bytes:
    """uint8 goes in and is used by the activations as well."""
    return contents(family, "onnx", "int8", "pixels")["model.onnx"]


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
