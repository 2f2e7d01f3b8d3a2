"""NNCF's post-training quantization of an OpenVINO model, saved as IR, or of an .onnx file."""

from pathlib import Path
from typing import Any

import torch

from edgekd.quiet import quiet


def convert(float_file: Path, calibration: torch.Tensor, file: Path) -> Path:
    """Post-training quantization with asymmetric activations, all else as NNCF and OpenVINO have it by default."""
    with quiet():
        import openvino

        model = openvino.Core().read_model(str(float_file))
        openvino.save_model(_quantized(model, [sample[None] for sample in calibration.numpy()]), str(file))
    return file


def convert_onnx(float_file: Path, calibration: torch.Tensor, file: Path) -> Path:
    """The same by NNCF's backend for ONNX; float in and out."""
    with quiet():
        import onnx

        samples = [{"input": sample[None]} for sample in calibration.numpy()]
        onnx.save(_quantized(onnx.load(float_file), samples), file)
    return file


def _quantized(model: Any, samples: list[Any]) -> Any:
    from edgekd.compress import nncf_backend  # sets NNCF up: no log lines, no telemetry

    nncf = nncf_backend.nncf
    return nncf.quantize(model, nncf.Dataset(samples), preset=nncf.QuantizationPreset.MIXED, subset_size=len(samples))
