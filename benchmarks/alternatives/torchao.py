"""torchao's quantization-aware training as litert-torch takes it: PT2E with litert-torch's quantizer."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from edgekd.compress.fold import fold_batch_norm
from edgekd.quiet import quiet
from edgekd.runtimes.session import channels_last

IMAGE_DIMENSIONS, LARGEST_BATCH = 4, 1024


def convert(model: nn.Module, example: torch.Tensor, train: Callable[[nn.Module], object], file: Path) -> Path:
    """A TFLite file. example: zeros of shape (1, ...). train: trains what it is given in place.

    Batch norm is folded before, as edgekd does: litert-torch 0.10's patterns for it are refused by torchao 0.18.
    """
    with quiet():
        import litert_torch
        from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
        from litert_torch.quantize.quant_config import QuantConfig
        from torchao.quantization.pt2e import allow_exported_model_train_eval
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e

        quantizer = PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True, is_qat=True))
        quantizer.STATIC_QAT_ONLY_OPS = []
        sizes = ({0: torch.export.Dim("batch", max=LARGEST_BATCH)},)
        folded = fold_batch_norm(model, example)
        traced = torch.export.export(folded, (torch.cat([example, example]),), dynamic_shapes=sizes).module()
        prepared = allow_exported_model_train_eval(prepare_qat_pt2e(traced, quantizer))
    train(prepared)
    prepared.eval()
    with quiet():
        quantized = convert_pt2e(prepared, fold_quantize=False)
        if example.ndim == IMAGE_DIMENSIONS:
            quantized = litert_torch.to_channel_last_io(quantized, args=[0])
        sample = torch.from_numpy(channels_last(example.numpy()))
        litert_torch.convert(quantized, (sample,), quant_config=QuantConfig(pt2e_quantizer=quantizer)).export(str(file))
    return file
