"""NNCF's post-training quantization of an OpenVINO model, saved as IR."""

from pathlib import Path

import torch

from edgekd.quiet import quiet


def convert(float_file: Path, calibration: torch.Tensor, file: Path) -> Path:
    """Post-training quantization with asymmetric activations, all else as NNCF and OpenVINO have it by default."""
    with quiet():
        import openvino

        from edgekd.compress import nncf_backend  # sets NNCF up: no log lines, no telemetry

        nncf = nncf_backend.nncf
        samples = [sample[None] for sample in calibration.numpy()]
        model = openvino.Core().read_model(str(float_file))
        quantized = nncf.quantize(
            model, nncf.Dataset(samples), preset=nncf.QuantizationPreset.MIXED, subset_size=len(samples)
        )
        openvino.save_model(quantized, str(file))
    return file
