"""What a model costs before anything is measured: multiply-accumulates."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@torch.no_grad()
def macs(module: nn.Module, example: torch.Tensor) -> int:
    """Multiply-accumulates of one forward pass: convolutions and matrix products, as torch's own counter has them."""
    counter = FlopCounterMode(display=False)
    with counter:
        module.eval()(example)
    return counter.get_total_flops() // 2
