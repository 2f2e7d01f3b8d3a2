"""Reading an exported file of any format as a graph."""

from pathlib import Path

from edgekd.runtimes import runtime_for
from edgekd.verify.graph import FileGraph


def read_graph(file: Path) -> FileGraph:
    """The graph of a file, by its suffix. Raises UsageError for another suffix, another content, or damage."""
    match runtime_for(file):
        case "onnxruntime" if file.suffix == ".ort":
            from edgekd.verify import ort

            return ort.read_graph(file)
        case "onnxruntime":
            from edgekd.verify import onnx

            return onnx.read_graph(file)
        case "openvino":
            from edgekd.verify import openvino

            return openvino.read_graph(file)
        case "coreml":
            from edgekd.verify import coreml

            return coreml.read_graph(file)
        case _:
            from edgekd.verify import tflite

            return tflite.read_graph(file)
