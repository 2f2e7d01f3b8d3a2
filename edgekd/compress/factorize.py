"""Low-rank factorization: linear and convolution layers as two smaller ones, from their singular values."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn

from edgekd.compress.weights import Layer, require_float, weighted_layers
from edgekd.config import nearest
from edgekd.errors import UsageError, first_line
from edgekd.models.low_rank import apply_low_rank, full_rank, has_low_rank_form, low_rank_form, lowers_macs


def factorize(
    model: nn.Module,
    example: torch.Tensor,
    *,
    energy: float | None = None,
    rank: float | None = None,
    layers: Sequence[str] = ("*",),
) -> tuple[nn.Module, dict[str, int]]:
    """A copy in which layers are the best two smaller ones, and the rank of each by module path.

    example: an input, shape (1, ...), that the copy is tried with. Exactly one of `energy` and `rank` is given, in
    (0, 1]. energy: each layer keeps the smallest rank whose singular values have that share of the sum of all their
    squares. rank: each keeps that share of its full rank, to the nearest whole number, and at least 1. layers: patterns
    of module paths, as of files (`blocks.*`).

    A layer is replaced where that lowers its multiply-accumulates: `x` becomes `x.0` and `x.1`. Grouped and depthwise
    convolutions, layers that share their weight with another one, and subclasses of Linear and Conv2d stay.

    Raises UsageError for a share that is not in (0, 1], a pattern that matches no linear or convolution layer, a model
    that is quantized, one that does not run without a layer's own weight, and if there is nothing to replace.
    """
    if (energy is None) == (rank is None):
        raise UsageError("factorize: give either energy or rank")
    word, share = ("energy", energy) if energy is not None else ("rank", rank)
    if share is None or not 0 < share <= 1:
        raise UsageError(f"factorize: {word} must be above 0 and at most 1, not {share}")
    require_float(model, "factorize")
    ranks = {}
    for name, layer in _chosen(model, layers).items():
        if not layer.weight.isfinite().all():
            raise UsageError(f"factorize: the weight of '{name}' holds NaN or infinity")
        kept = _rank_for(layer, energy) if energy is not None else max(1, round(share * full_rank(layer)))
        if lowers_macs(layer, kept):
            ranks[name] = kept
    if not ranks:
        raise UsageError(
            f"factorize: with {word} {share} no layer of {', '.join(layers)} has fewer multiply-accumulates; "
            f"lower {word}, or name other layers (grouped convolutions and shared weights stay as they are)"
        )
    factorized = apply_low_rank(model, ranks)
    for name, kept in ranks.items():
        factorized.get_submodule(name).load_state_dict(truncated(model.get_submodule(name), kept).state_dict())
    _try(factorized, example, ranks)
    return factorized, ranks


def truncated(layer: nn.Module, rank: int) -> nn.Sequential:
    """The low-rank form of a layer, with the weights that come nearest to its own (Eckart & Young 1936).

    Each singular value goes in halves into both, as its square root: neither becomes hard to train or to quantize.
    Raises UsageError as `low_rank_form` does.
    """
    form = low_rank_form(layer, rank)
    matrix = _matrix(layer)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    root = values[:rank].sqrt()
    first, second = root[:, None] * right[:rank], left[:, :rank] * root
    state = {"0.weight": first.reshape(rank, *layer.get_parameter("weight").shape[1:])}
    state["1.weight"] = second.reshape(form.get_parameter("1.weight").shape)
    if "1.bias" in form.state_dict():
        state["1.bias"] = layer.get_parameter("bias").detach()
    form.load_state_dict(state)
    return form


def _chosen(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Linear | nn.Conv2d]:
    """The layers that a pattern names and that have a low-rank form."""
    names = [name for name, layer in model.named_modules() if isinstance(layer, Layer)]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(
                f"factorize: no linear or convolution layer is named '{pattern}'; {nearest(pattern, names)}"
            )
    return {
        name: layer
        for name, layer in weighted_layers(model).items()
        if isinstance(layer, nn.Linear | nn.Conv2d)
        and has_low_rank_form(layer)
        and any(fnmatchcase(name, pattern) for pattern in patterns)
    }


def _rank_for(layer: nn.Linear | nn.Conv2d, energy: float) -> int:
    """The smallest rank that keeps a share of the energy. Singular values within rounding of the weight are zero."""
    matrix = _matrix(layer)
    values = torch.linalg.svdvals(matrix)
    rounding = values[0] * max(matrix.shape) * torch.finfo(layer.weight.dtype).eps
    kept = values[values > rounding].square().cumsum(dim=0)
    return 1 + int((kept < energy * kept[-1]).sum()) if len(kept) else 1


def _matrix(layer: nn.Module) -> torch.Tensor:
    """A weight as a float64 matrix: a row for each output."""
    weight = layer.get_parameter("weight").detach()
    return weight.flatten(start_dim=1).double()


def _try(model: nn.Module, example: torch.Tensor, ranks: dict[str, int]) -> None:
    """Raise UsageError for a model whose code uses more of a replaced layer than its call."""
    training = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad():
            model.eval()(example)
    except Exception as error:
        raise UsageError(
            f"factorize: {type(model).__name__} does not run with its layers replaced ({first_line(error)}); its code "
            f"uses one of {', '.join(ranks)} in another way than calling it; name the others in layers"
        ) from error
    finally:
        for module, was in training:
            module.training = was
