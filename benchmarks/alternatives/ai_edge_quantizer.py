"""Google's ai-edge-quantizer on what litert-torch converts: its stock recipe for static int8."""

from pathlib import Path

import torch
from torch import nn

from edgekd.quiet import quiet
from edgekd.runtimes.session import channels_last

SIGNATURE, INPUT = "serving_default", "args_0"
IMAGE_DIMENSIONS = 4


def convert(model: nn.Module, calibration: torch.Tensor, file: Path) -> Path:
    """Post-training quantization; int8 in and out, token ids int32.

    It starts from litert-torch's own float file: it knows tensors by their names, which edgekd's files leave out.
    """
    samples = channels_last(calibration.numpy())
    with quiet():
        import litert_torch
        from ai_edge_quantizer import quantizer, recipe

        model = model.eval()
        if calibration.ndim == IMAGE_DIMENSIONS:
            model = litert_torch.to_channel_last_io(model, args=[0])
        litert_torch.convert(model, (torch.from_numpy(samples[:1]),)).export(str(file))
        tool = quantizer.Quantizer(file.read_bytes(), recipe.static_wi8_ai8())
        ranges = tool.calibrate({SIGNATURE: [{INPUT: sample[None]} for sample in samples]}, num_threads=1)
        file.write_bytes(tool.quantize(ranges, enable_progress_report=False).quantized_model)
    return file
