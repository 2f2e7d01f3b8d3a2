"""Runtimes that execute exported files: one module each, imported when a file of its kind is opened."""

from pathlib import Path

from edgekd.errors import UsageError
from edgekd.runtimes.session import Session

SUFFIXES = {
    ".tflite": "ai-edge-litert",
    ".onnx": "onnxruntime",
    ".ort": "onnxruntime",
    ".xml": "openvino",
    ".mlpackage": "coreml",
}
"""Which runtime opens a file, by its suffix."""
THIRTY_TWO_BIT = "armv7"
"""What no LiteRT is made for any more."""


def runtime_for(file: Path) -> str:
    """The runtime that opens a file. Raises UsageError for a suffix that none takes."""
    if file.suffix not in SUFFIXES:
        raise UsageError(f"{file}: no runtime for '{file.suffix}' files; known: {', '.join(SUFFIXES)}")
    return SUFFIXES[file.suffix]


def open_session(file: Path, threads: int = 1, runtime: str | None = None) -> Session:
    """Load a file in a runtime, by default the one that its suffix names.

    Raises UsageError if it is missing or of another format, DeviceError if the runtime refuses it.
    """
    match runtime or runtime_for(file):
        case "tflite-runtime":
            from edgekd.runtimes.tflite_runtime import TFLiteRuntimeSession

            return TFLiteRuntimeSession(file, threads)
        case "coreml":
            from edgekd.runtimes.coreml import CoreMLSession

            return CoreMLSession(file, threads)
        case "onnxruntime":
            from edgekd.runtimes.onnxruntime import OnnxRuntimeSession

            return OnnxRuntimeSession(file, threads)
        case "openvino":
            from edgekd.runtimes.openvino import OpenVINOSession

            return OpenVINOSession(file, threads)
        case _:
            from edgekd.runtimes.litert import LiteRTSession

            return LiteRTSession(file, threads)


def runtime_on(file: Path, architecture: str) -> str:
    """The runtime that opens a file on a device. Raises UsageError for a suffix that none takes."""
    runtime = runtime_for(file)
    return "tflite-runtime" if runtime == "ai-edge-litert" and architecture == THIRTY_TWO_BIT else runtime
