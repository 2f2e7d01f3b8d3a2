"""Compression: batch norm folding, quantization-aware training, the quantized program."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"program": ["QuantizedProgram"], "qat": ["quantize"]}
)
