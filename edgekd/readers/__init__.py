"""Reading exported files as graphs, below any runtime: one module a format, imported when such a file is read."""

from pathlib import Path
from types import ModuleType

from edgekd.errors import UsageError
from edgekd.readers.graph import FileGraph


def read_graph(file: Path) -> FileGraph:
    """The graph of a file, by its suffix. Raises UsageError for another suffix, another content, or damage."""
    graph: FileGraph = _reader(file).read_graph(file)
    return graph


def check_file(file: Path) -> None:
    """Refuse what is not a model of its suffix's format, before native code sees it. Raises UsageError."""
    _reader(file).check_file(file)


def _reader(file: Path) -> ModuleType:
    match file.suffix:
        case ".tflite":
            from edgekd.readers import tflite

            return tflite
        case ".onnx":
            from edgekd.readers import onnx

            return onnx
        case ".ort":
            from edgekd.readers import ort

            return ort
        case ".xml":
            from edgekd.readers import openvino

            return openvino
        case ".mlpackage":
            from edgekd.readers import coreml

            return coreml
        case other:
            raise UsageError(f"{file}: '{other}' is no format that edgekd reads")
