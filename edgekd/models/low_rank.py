"""Linear and convolution layers as two smaller ones in a row."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn

from edgekd.config import nearest
from edgekd.errors import UsageError


def has_low_rank_form(layer: nn.Module) -> bool:
    """Is it a Linear, or a Conv2d that is not grouped? Their subclasses do something else with a weight."""
    return type(layer) is nn.Linear or (type(layer) is nn.Conv2d and layer.groups == 1)


def full_rank(layer: nn.Linear | nn.Conv2d) -> int:
    """The largest rank of a weight as a matrix: a row for each output, a column for each input of each kernel place."""
    return min(layer.weight.shape[0], layer.weight[0].numel())


def lowers_macs(layer: nn.Linear | nn.Conv2d, rank: int) -> bool:
    """Both forms use each weight once for each position of the output, so weights count multiply-accumulates."""
    return rank * (layer.weight.shape[0] + layer.weight[0].numel()) < layer.weight.numel()


def low_rank_form(layer: nn.Module, rank: int) -> nn.Sequential:
    """Two layers, untrained, that take and give what `layer` does, with `rank` numbers (at each position) between.

    A Linear becomes two, the second with the bias. A Conv2d becomes one of the same kernel to `rank` channels, and a
    1x1 convolution with the bias (Zhang et al. 2015, "Accelerating Very Deep Convolutional Networks"). Against the
    vertical and horizontal kernels of Tai et al. 2015, which keep k times as many ranks, a share of the full rank costs
    5/9 of the multiply-accumulates for 3x3 kernels and as many outputs as inputs; a batch norm behind it folds.

    Raises UsageError for any other layer, and for a rank that is not in 1..full_rank.
    """
    if not has_low_rank_form(layer):
        raise UsageError(f"{type(layer).__name__} has no low-rank form; only Linear and ungrouped Conv2d have one")
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    if type(rank) is not int or not 1 <= rank <= full_rank(layer):
        raise UsageError(f"the rank must be a whole number from 1 to {full_rank(layer)}, not {rank!r}")
    bias = layer.bias is not None
    place: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    if isinstance(layer, nn.Linear):
        first: nn.Module = nn.Linear(layer.in_features, rank, bias=False, **place)
        second: nn.Module = nn.Linear(rank, layer.out_features, bias, **place)
    else:
        same = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        options = place | {name: getattr(layer, name) for name in same}
        first = nn.Conv2d(layer.in_channels, rank, bias=False, **options)
        second = nn.Conv2d(rank, layer.out_channels, 1, bias=bias, **place)
    return nn.Sequential(first, second).train(layer.training)


def apply_low_rank(module: nn.Module, layers: Mapping[str, int]) -> nn.Module:
    """A copy of a module in which each layer that is named has its low-rank form, untrained, of that rank.

    Raises UsageError for a name that is not in the module, and as `low_rank_form` does.
    """
    changed = copy.deepcopy(module)
    for name, rank in layers.items():
        found = dict(changed.named_modules())
        if name not in found:
            raise UsageError(f"low-rank: the model has no layer '{name}'; {nearest(name, found)}")
        try:
            form = low_rank_form(found[name], rank)
        except UsageError as error:
            raise UsageError(f"low-rank: layer '{name}': {error}") from error
        if not name:
            return form
        changed.set_submodule(name, form)
    return changed
