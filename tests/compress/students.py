"""Students that answer differently to different inputs, without any training."""

import torch
from torch import nn

from edgekd.models.build import Architecture, build


def noise(shape: tuple[int, ...], count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def lively(architecture: Architecture, seed: int = 0) -> nn.Module:
    """A built-in student whose batch norms know its inputs: activations have size one, and no scale vanishes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build(architecture, "student")
        norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None
            nn.init.normal_(norm.weight, 1.0, 0.2)
            nn.init.normal_(norm.bias, 0.0, 0.3)
        nn.init.normal_(model.classifier.weight, 0.0, 1.0)
        with torch.no_grad():
            model.train()(noise(architecture.input_shape, 64, seed))
    return model.eval()
