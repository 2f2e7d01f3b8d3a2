"""What each kind of compression makes of a float student, and of the architecture that builds it again."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, assert_never

import torch
from torch import nn

from edgekd.compress.factorize import factorize
from edgekd.compress.order import Shrinking
from edgekd.compress.prune import MEASUREMENTS, Cost, prune
from edgekd.compress.sparsify import holding_zeros, sparsify
from edgekd.errors import UsageError
from edgekd.models.build import Architecture, example_input, parameter_count
from edgekd.models.cost import macs
from edgekd.models.structure import LOW_RANK, resize_between
from edgekd.recipe import Factorize, Prune, Sparsify

Recover = Callable[[nn.Module], object]


def shrink(
    compression: Shrinking,
    module: nn.Module,
    architecture: Architecture,
    recover: Recover,
    latency: Cost | None = None,
    measurements: int = MEASUREMENTS,
) -> tuple[nn.Module, Architecture]:
    """A smaller or sparser copy. recover: trains what it is given in place, after each round of pruning, else once.
    latency: that of a model, of pruning by its share. measurements: see `prune`.

    Raises UsageError where the module cannot be shrunk so, naming the kind of compression.
    """
    example = example_input(architecture)
    with _named(compression.kind):
        match compression:
            case Prune():
                cost, keep = _cost(compression, example, latency)
                smaller = prune(
                    module,
                    example,
                    cost,
                    keep,
                    guide=(lambda model: macs(model, example)) if latency else None,
                    measurements=measurements,
                    protect=compression.protect,
                    rounds=compression.rounds,
                    recover=recover,
                )
                return smaller, _edited(architecture, resize_between(module, smaller))
            case Factorize():
                energy, rank = compression.energy, compression.rank
                smaller, ranks = factorize(module, example, energy=energy, rank=rank, layers=compression.layers)
                recover(smaller)
                return smaller, _edited(architecture, {"kind": LOW_RANK, "layers": ranks})
            case Sparsify():
                smaller = sparsify(module, share=compression.share, pattern=compression.pattern)
                with holding_zeros(smaller):
                    recover(smaller)
                return smaller, architecture
    assert_never(compression)


@contextmanager
def _named(kind: str) -> Iterator[None]:
    """Name the recipe's table in a refusal."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"compress: {kind}: {str(error).removeprefix(f'{kind}: ')}") from error


def _cost(compression: Prune, example: torch.Tensor, latency: Cost | None) -> tuple[Cost, float]:
    """What is to become less, and the share of it to keep."""
    if compression.latency is not None:
        assert latency is not None
        return latency, compression.latency
    if compression.macs is not None:
        return lambda module: macs(module, example), compression.macs
    assert compression.params is not None
    return parameter_count, compression.params


def _edited(architecture: Architecture, edit: Mapping[str, Any]) -> Architecture:
    return dataclasses.replace(architecture, edits=(*architecture.edits, edit))
