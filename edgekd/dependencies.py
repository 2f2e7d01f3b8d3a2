"""Which packages what needs, and the command that installs those that are missing."""

import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from edgekd.errors import DependencyError
from edgekd.keys import package_version

DATA = ("numpy", "scipy", "scikit-learn")
TEXT = (*DATA, "tokenizers")
DEVICE_PACKAGES = ("paramiko", "ziglang")
"""What the ways to devices and the agent's compilation need."""
APART = "tflite-runtime"
APART_PACKAGES = ("tflite-runtime==2.14.0", "numpy<2")
NEWEST_PYTHON = (3, 11)
"""The newest that tflite-runtime has a wheel for."""
TRAINING = ("torch", "accelerate", "numpy", "safetensors", "tensorboard", "torchmetrics")
TEACHING: dict[str, tuple[str, ...]] = {
    "transformers": ("transformers",),
    "onnx": ("onnxruntime", "onnx"),
    "tflite": ("ai-edge-litert", "flatbuffers"),
    "keras": ("tensorflow",),
}
"""What a teacher of a kind needs beyond what training needs."""
TEACHER_EXTRAS = {"transformers": "transformers", "onnx": "onnx", "tflite": "tflite", "keras": "keras"}
"""The extra that brings it."""
QUANTIZING = (*TRAINING, "nncf")
PRUNING = (*TRAINING, "torch-pruning")
EXPORTING = {
    "tflite": ("litert-torch", "litert-converter", "torchao", "ai-edge-litert", "flatbuffers"),
    "onnx": ("onnx", "onnxscript"),
    "ort": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "coreml": ("coremltools",),
}
FORMAT_EXTRAS = {"tflite": "tflite", "onnx": "onnx", "ort": "onnx", "openvino": "openvino", "coreml": "coreml"}
"""The extra that brings a format's exporter."""
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
    """Raise DependencyError, with the command that mends it, if a runtime cannot be used."""
    require(RUNTIMES[runtime], [EXTRAS[runtime]])
    if runtime == APART and not apart().is_dir():
        raise DependencyError(f"{APART} has no environment at {apart()}; run: {apart_command()}")


def apart() -> Path:
    """Where tflite-runtime is installed: its last release wants numpy 1, so it has an environment of its own."""
    return Path(sys.prefix) / "apart" / APART


def apart_command() -> str:
    """The command that makes that environment."""
    python = sys.executable if sys.version_info[:2] <= NEWEST_PYTHON else "python{}.{}".format(*NEWEST_PYTHON)
    place = apart()
    make = shlex.join([python, "-m", "venv", str(place)])
    return f"{make} && {shlex.join([str(place / 'bin' / 'python'), '-m', 'pip', 'install', *APART_PACKAGES])}"
