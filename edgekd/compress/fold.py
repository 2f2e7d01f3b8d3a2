"""Folding batch normalisation into the layer before it."""

import copy
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx import Node
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from edgekd.errors import ExportError, first_line
from edgekd.quiet import quiet

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
ROWS = 2
TORCH = Path(torch.__file__).parent


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
    """torch.export without a compiler; raises ExportError with the reason, and the line of code that it is about."""
    try:
        with quiet():
            return torch.export.export(model, (example,), strict=False)
    except Exception as error:
        where = line_of(error)
        raise ExportError(f"torch.export cannot trace {type(model).__name__}: {first_line(error)}{where}") from error


def line_of(error: Exception) -> str:
    """The innermost line of the model's own code in a traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.name == "forward" and TORCH not in Path(frame.filename).parents]
    return f"; at {Path(own[-1].filename).name}, line {own[-1].lineno}: {own[-1].line}" if own else ""


def _pairs(model: nn.Module, example: torch.Tensor) -> list[tuple[str, str]]:
    """Names of (layer, batch norm) where the norm sees that layer's output and nothing else does."""
    program = trace(model, example)
    parameters, buffers = program.graph_signature.inputs_to_parameters, program.graph_signature.inputs_to_buffers
    found = []
    for node in program.graph.nodes:
        if node.op != "call_function" or "batch_norm" not in str(node.target):
            continue
        before, mean = node.args[0], node.args[3]
        weight = before.args[1] if len(before.args) > 1 else None
        if not isinstance(weight, Node) or not isinstance(mean, Node):
            continue
        if weight.name not in parameters or mean.name not in buffers:
            continue
        layer_name, norm_name = (names.rpartition(".")[0] for names in (parameters[weight.name], buffers[mean.name]))
        layer, norm = model.get_submodule(layer_name), model.get_submodule(norm_name)
        used_once = len(before.users) == 1 and len(weight.users) == 1 and len(mean.users) == 1
        if used_once and isinstance(norm, BATCH_NORMS) and _over_channels(layer, before):
            found.append((layer_name, norm_name))
    return found


def _over_channels(layer: nn.Module, output: Node) -> bool:
    """A batch norm works along dimension 1: the channels of a convolution, the features of a linear layer on rows."""
    if isinstance(layer, nn.Linear):
        return bool(output.meta["val"].ndim == ROWS)
    return isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
