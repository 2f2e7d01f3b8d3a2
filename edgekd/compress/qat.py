"""Quantization-aware training: from a float model to the quantized program."""

from collections.abc import Callable, Collection

import torch
from torch import nn

from edgekd.compress import nncf_backend
from edgekd.compress.fold import fold_batch_norm
from edgekd.compress.program import QuantizedProgram
from edgekd.errors import UsageError


def quantize(
    model: nn.Module,
    calibration: torch.Tensor,
    train: Callable[[nn.Module], object] | None = None,
    input_range: tuple[float, float] | None = None,
    output_range: tuple[float, float] | None = None,
    choose: Callable[[nn.Module, torch.Tensor], Collection[str]] | None = None,
    weight_bits: int = 8,
) -> QuantizedProgram:
    """Fold batch norm, insert calibrated int8 quantizers, let the caller train them, and read what was learned.

    calibration: real model inputs, float32, shape (N, ...). train: trains the model it is given in place, weights and
    quantizer ranges alike; without it the calibrated ranges stay (post-training quantization). input_range: the real
    values of the smallest and the largest int8 input where they are known; then the input's quantizer is not trained.
    output_range: the numbers that must come out, where they count themselves and not by their order: the calibration
    knows those of its samples alone. choose: names the layers that stay float, given the calibrated model and zeros of
    shape (1, ...); see `edgekd.compress.sensitivity`. weight_bits: 8, or 4 for the weights of linear and convolution
    layers.

    The model that is passed in stays as it is. Raises UsageError if it is quantized already, or for calibration samples
    that are not finite; ExportError if torch.export cannot trace it.
    """
    if nncf_backend.is_quantized(model):
        again = "train it again" if train else "calibrate it anew and throw away its scales"
        raise UsageError(f"quantize: the model is quantized already, and this would {again}; give the float one")
    if len(broken := (~torch.isfinite(calibration.flatten(1)).all(dim=1)).nonzero()):
        raise UsageError(f"quantize: calibration sample {int(broken[0])} holds NaN or infinity; leave it out")
    example = torch.zeros_like(calibration[:1]).contiguous()
    quantized = nncf_backend.insert_quantizers(fold_batch_norm(model, example), calibration, weight_bits)
    if input_range is not None:
        nncf_backend.pin_input(quantized, example, *input_range)
    if output_range is not None:
        nncf_backend.open_output(quantized, example, *output_range)
    if choose is not None and (layers := choose(quantized, example)):
        quantized = nncf_backend.keep_float(quantized, example, layers)
    if train is not None:
        train(quantized)
    return QuantizedProgram.of(quantized, example)
