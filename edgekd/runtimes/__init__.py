"""Runtimes that execute exported files: one module each, imported when a file of its kind is opened."""

from pathlib import Path

from edgekd.errors import UsageError
from edgekd.runtimes.session import Session

SUFFIXES = {".tflite": "ai-edge-litert", ".onnx": "onnxruntime"}
"""Which runtime opens a file, by its suffix."""


def runtime_for(file: Path) -> str:
    """The runtime that opens a file. Raises UsageError for a suffix that none takes."""
    if file.suffix not in SUFFIXES:
        raise UsageError(f"{file}: no runtime for '{file.suffix}' files; known: {', '.join(SUFFIXES)}")
    return SUFFIXES[file.suffix]


def open_session(file: Path, threads: int = 1) -> Session:
    """Load a file in the runtime that its suffix names.

    Raises UsageError if it is missing or of another format, DeviceError if the runtime refuses it.
    """
    if runtime_for(file) == "onnxruntime":
        from edgekd.runtimes.onnxruntime import OnnxRuntimeSession

        return OnnxRuntimeSession(file, threads)
    from edgekd.runtimes.litert import LiteRTSession

    return LiteRTSession(file, threads)


def check_file(file: Path, runtime: str) -> None:
    """Refuse what is not a model of this runtime's format, before native code sees it. Raises UsageError."""
    if runtime == "onnxruntime":
        from edgekd.runtimes import onnxruntime

        onnxruntime.check_file(file)
    else:
        from edgekd.runtimes import litert

        litert.check_file(file)
