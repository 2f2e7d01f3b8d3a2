"""ONNX Runtime's static quantization of a float .onnx file: its preprocessing, QDQ form, weights per channel."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from edgekd.quiet import quiet


def convert(float_file: Path, calibration: torch.Tensor, file: Path, *, unsigned: bool) -> Path:
    """Post-training quantization with uint8 or int8 activations; float in and out."""
    with quiet():
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        prepared = file.with_suffix(".prepared.onnx")
        quant_pre_process(float_file, prepared)
        quantize_static(
            prepared,
            file,
            _Samples(calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8 if unsigned else QuantType.QInt8,
            weight_type=QuantType.QInt8,
        )
        prepared.unlink()
    return file


class _Samples:
    """What the tool reads calibration data from."""

    def __init__(self, calibration: torch.Tensor) -> None:
        self.samples: Iterator[np.ndarray] = iter(calibration.numpy())

    def get_next(self) -> dict[str, np.ndarray] | None:
        sample = next(self.samples, None)
        return None if sample is None else {"input": sample[None]}

    def __iter__(self) -> "_Samples":
        return self
