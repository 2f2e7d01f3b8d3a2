"""What a file makes a runtime do that its source does not ask for: layout changes, float islands between integers."""

import torch
from torch import nn

from edgekd.compress.fold import trace
from edgekd.verify.graph import FileGraph, layout_changes

TRANSPOSES = ("transpose", "permute", "scaled_dot_product_attention")
"""Operations of a torch graph that a file may have one transpose for: attention turns its keys."""


def asked_transposes(model: nn.Module, example: torch.Tensor) -> int:
    """How many transposes a model's own code stands for."""
    nodes = trace(model, example).graph.nodes
    return sum(node.op == "call_function" and any(word in str(node.target) for word in TRANSPOSES) for node in nodes)


def stray_transposes(graph: FileGraph, asked: int) -> list[str]:
    """The transposes of a file beyond those that its source asks for."""
    return layout_changes(graph)[asked:]
