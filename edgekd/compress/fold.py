"""Folding batch normalisation into the layer before it."""

import copy
from typing import Any

import torch
from torch import nn
from torch.fx import Node
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from edgekd.errors import ExportError


def fold_batch_norm(model: nn.Module, example: torch.Tensor) -> nn.Module:
    """A copy in eval mode in which every batch norm right behind a convolution or linear layer is part of it.

    The layers are found in the exported graph, so the order of calls counts and not the order of definition. The
    module tree stays: Identity stands in place of a folded batch norm, which is left alone where the layer before it
    has other users.

    Raises ExportError if torch.export cannot trace the model.
    """
    folded = copy.deepcopy(model).eval()
    for layer_name, norm_name in _pairs(folded, example):
        layer, norm = folded.get_submodule(layer_name), folded.get_submodule(norm_name)
        fuse: Any = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
        folded.set_submodule(layer_name, fuse(layer, norm))
        folded.set_submodule(norm_name, nn.Identity())
    return folded.eval()


def trace(model: nn.Module, example: torch.Tensor) -> torch.export.ExportedProgram:
    """torch.export without a compiler; raises ExportError with the first line of the reason."""
    try:
        return torch.export.export(model, (example,), strict=False)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ExportError(f"student: torch.export cannot trace {type(model).__name__}: {reason}") from error


def _pairs(model: nn.Module, example: torch.Tensor) -> list[tuple[str, str]]:
    program = trace(model, example)
    signature = program.graph_signature
    found = []
    for node in program.graph.nodes:
        if node.op != "call_function" or "batch_norm" not in str(node.target):
            continue
        before, mean = node.args[0], node.args[3]
        weight = before.args[1] if len(before.args) > 1 else None
        if not isinstance(weight, Node) or weight.name not in signature.inputs_to_parameters:
            continue
        layer_name = signature.inputs_to_parameters[weight.name].rpartition(".")[0]
        norm_name = signature.inputs_to_buffers[mean.name].rpartition(".")[0]
        foldable = isinstance(model.get_submodule(layer_name), nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)
        if foldable and len(before.users) == 1 and len(weight.users) == 1 and len(mean.users) == 1:
            found.append((layer_name, norm_name))
    return found
