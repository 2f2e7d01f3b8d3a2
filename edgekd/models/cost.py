"""What a model costs before anything is measured: multiply-accumulates."""

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@torch.no_grad()
def macs(module: nn.Module, example: torch.Tensor) -> int:
    """Multiply-accumulates of one forward pass: convolutions and matrix products, as torch's own counter has them.

    Attention is computed as its two matrix products: torch's counter does not know what else a CPU does for it.
    """
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        module.eval()(example)
    return counter.get_total_flops() // 2
