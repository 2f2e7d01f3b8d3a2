"""Which layers suffer most from int8, and the fewest that must stay float for an accuracy."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from edgekd.compress import nncf_backend
from edgekd.errors import GateError
from edgekd.models.evaluate import predict

ROUNDING, TINY = float(np.finfo(np.float32).eps) ** 2, float(np.finfo(np.float64).tiny)
Score = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Sensitivity:
    """How a quantized model answers while this layer alone stays float; for the layer "", while none does.

    sqnr_db: signal to quantization noise of its outputs against the float model's. score: how good they are.
    """

    layer: str
    sqnr_db: float
    score: float


@dataclass(frozen=True)
class Samples:
    """What models are compared on. inputs: (N, ...). reference: what the float model answers, (N, outputs). score: of
    answers to these inputs, 1 is perfect.
    """

    inputs: torch.Tensor
    reference: np.ndarray
    score: Score


def sqnr_db(reference: np.ndarray, found: np.ndarray) -> float:
    """10 log10 of the reference's power over that of the difference, which counts as at least a rounding error."""
    wanted = reference.astype(np.float64)
    power, noise = float((wanted**2).sum()), float(((wanted - found) ** 2).sum())
    return 10 * math.log10(max(power, TINY) / max(noise, power * ROUNDING, TINY))


def sensitivity(
    model: nn.Module, example: torch.Tensor, samples: Samples, kept: Collection[str] = ()
) -> list[Sensitivity]:
    """Leave each layer float in turn, beside those that are `kept` so: the one that helps most comes first.

    model: with calibrated quantizers, see `nncf_backend.insert_quantizers`. example: zeros of shape (1, ...).
    """
    layers = [layer for layer in nncf_backend.weighted_layers(model, example) if layer not in kept]
    found = [judged(model, example, samples, layer, (*kept, layer)) for layer in layers]
    return sorted(found, key=lambda one: -one.sqnr_db)


def judged(model: nn.Module, example: torch.Tensor, samples: Samples, layer: str, kept: Collection[str]) -> Sensitivity:
    """A quantized model with these layers float."""
    outputs = predict(nncf_backend.keep_float(model, example, kept) if kept else model, samples.inputs)
    return Sensitivity(layer, sqnr_db(samples.reference, outputs), samples.score(outputs))


def fewest_float(model: nn.Module, example: torch.Tensor, samples: Samples, floor: float) -> tuple[str, ...]:
    """The layers to keep float for a score of `floor`, in the order of the graph: none where int8 reaches it.

    The layer that helps most is taken, again and again, until the floor is reached; then each that is not needed beside
    the others is given up. Raises GateError, with the best that was reached, if no choice reaches it.
    """
    chosen: tuple[str, ...] = ()
    best = now = judged(model, example, samples, "", chosen)
    tried: tuple[str, ...] = chosen
    while now.score < floor:
        ranked = sensitivity(model, example, samples, chosen)
        if not ranked:
            raise GateError(
                f"mixed precision: a score of {floor:g} is not reached; the best is {best.score:.4f} with "
                f"{_named(tried)} float; lower the floor, or train the student longer"
            )
        now = ranked[0]
        chosen = (*chosen, now.layer)
        if now.score > best.score:
            best, tried = now, chosen
    for layer in chosen[:-1]:
        others = tuple(one for one in chosen if one != layer)
        if judged(model, example, samples, layer, others).score >= floor:
            chosen = others
    return tuple(layer for layer in nncf_backend.weighted_layers(model, example) if layer in chosen)


def _named(layers: Sequence[str]) -> str:
    return ", ".join(layers) or "no layer"
