"""Which packages what needs, and the command that installs those that are missing."""

from collections.abc import Iterable

from edgekd.errors import DependencyError
from edgekd.keys import package_version

DATA = ("numpy", "scipy", "scikit-learn")
TRAINING = ("torch", "numpy", "safetensors")
QUANTIZING = (*TRAINING, "nncf")
EXPORTING = {
    "tflite": ("litert-torch", "litert-converter", "torchao", "ai-edge-litert", "flatbuffers"),
    "onnx": ("onnx", "onnxscript"),
    "ort": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "coreml": ("coremltools",),
}
RUNTIMES: dict[str, tuple[str, ...]] = {
    "ai-edge-litert": ("ai-edge-litert", "flatbuffers"),
    "onnxruntime": ("onnxruntime", "onnx"),
    "openvino": ("openvino",),
    "coreml": ("coremltools",),
    "tflite-runtime": ("flatbuffers",),
}
EXTRAS = {
    "ai-edge-litert": "tflite",
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "coreml": "coreml",
    "tflite-runtime": "tflite",
}
"""The extra that brings a runtime."""


def missing(packages: Iterable[str]) -> list[str]:
    return sorted({name for name in packages if package_version(name) is None})


def install_command(extras: Iterable[str]) -> str:
    return f"pip install 'edgekd[{','.join(sorted(set(extras)))}]'"


def require(packages: Iterable[str], extras: Iterable[str]) -> None:
    """Raise DependencyError, with the command that mends it, if a package is not installed."""
    if absent := missing(packages):
        raise DependencyError(f"not installed: {', '.join(absent)}; run: {install_command(extras)}")


def require_runtime(runtime: str) -> None:
    """Raise DependencyError if a runtime cannot be used."""
    require(RUNTIMES[runtime], [EXTRAS[runtime]])
