"""TensorFlow Lite files by litert-torch."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from edgekd.compress.fold import trace
from edgekd.compress.quantizers import Quantizer
from edgekd.errors import ExportError
from edgekd.export.blame import refusal
from edgekd.export.card import Card
from edgekd.export.tflite_layout import know_padding
from edgekd.quiet import quiet
from edgekd.target import Precision

IMAGE_DIMENSIONS = 4


def export(
    model: nn.Module,
    example: torch.Tensor,
    file: Path,
    precision: Precision,
    card: Card,
    table: Sequence[Quantizer] = (),
    int4: bool = False,
) -> None:
    """Write a float model, or a program with explicit quantizers and float weights (`frozen(stored=False)`).

    An image is channels last, batch 1; input and output of a full-integer file are int8. table: the program's
    quantizers, by which its rounded weights are known again. int4: store weights of 4 bits as such where the runtime
    takes them; with float activations it takes none. Raises ExportError with the converter's reason.
    """
    try:
        with quiet():
            import litert_torch

            know_padding()
            converted, inputs = model, example
            if example.ndim == IMAGE_DIMENSIONS:
                converted, inputs = litert_torch.to_channel_last_io(model, args=[0]), example.permute(0, 2, 3, 1)
            config = _static_int8() if precision == "int8" else None
            litert_torch.convert(converted.eval(), (inputs.contiguous(),), quant_config=config).export(str(file))
    except Exception as error:
        why = refusal(error, trace(model, example))
        raise ExportError(f"TFLite export: litert-torch refused the model: {why}") from error
    from edgekd.export.tflite_int4 import pack_weights
    from edgekd.export.tflite_metadata import with_metadata
    from edgekd.export.tflite_pack import foreign_ops, slim
    from edgekd.export.tflite_sparse import store_sparse
    from edgekd.export.tflite_store import halve_weights, store_embeddings, store_weights
    from edgekd.export.tflite_widen import widen

    content = file.read_bytes()
    if foreign := foreign_ops(content):
        file.unlink()
        raise ExportError(f"TFLite export: no TFLite kernel for {', '.join(foreign)}; replace it in the model")
    if precision == "int8":
        content = widen(content)
        content = pack_weights(content) if int4 else content
    elif precision == "float32":
        content = store_sparse(content)
    elif precision == "float16":
        content = halve_weights(content)
    elif precision == "int8-weights":
        content = store_weights(content)
    if table:
        content = store_embeddings(content, table)
    file.write_bytes(with_metadata(slim(content), card))


def _static_int8() -> object:
    """The converter's scheme for programs with quantizers in them; without it the convolutions stay float."""
    from litert_torch.quantize import pt2e_quantizer
    from litert_torch.quantize.quant_config import QuantConfig

    scheme = pt2e_quantizer.get_symmetric_quantization_config(is_per_channel=True, is_qat=True)
    return QuantConfig(pt2e_quantizer=pt2e_quantizer.PT2EQuantizer().set_global(scheme))
