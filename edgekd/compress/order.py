"""In which order a student is compressed: pruned, factorized, made sparse, then quantized, once."""

import itertools
from collections.abc import Sequence

from edgekd.errors import UsageError
from edgekd.recipe import Compression, Factorize, Prune, Quantization, Quantize, Sparsify

Shrinking = Prune | Factorize | Sparsify
ORDER = ("prune", "factorize", "sparsify", "quantize")
BEFORE = {
    "prune": "whole channels are counted in full layers, and take their scales and zeros with them",
    "factorize": "the two layers that stand for one have neither its zeros nor its scales",
    "sparsify": "zeros are chosen among float weights, and quantized as zeros",
}
"""Why each comes before those after it."""
ONCE = {
    "qat": "a second QAT would train weights that are rounded already; give the first one more epochs",
    "ptq": "PTQ would calibrate anew and throw away the scales that are there",
}


def in_order(compress: Sequence[Compression], quantize: Quantization | None) -> tuple[list[Shrinking], Quantization]:
    """What shrinks the float student, and its quantization. Raises UsageError, with the reason, for another order."""
    entries = [*compress, *([Quantize(kind="quantize", **vars(quantize))] if quantize else [])]
    for before, after in itertools.pairwise(entries):
        if isinstance(before, Quantize) and isinstance(after, Quantize):
            raise UsageError(f"compress: 'quantize' stands there twice: {ONCE[after.method]}")
        if before.kind == after.kind:
            raise UsageError(f"compress: '{after.kind}' stands there twice in turn; ask for all of it in one")
        if ORDER.index(before.kind) > ORDER.index(after.kind):
            raise UsageError(f"compress: '{after.kind}' comes before '{before.kind}': {BEFORE[after.kind]}")
    *shrinking, last = entries
    assert isinstance(last, Quantize), "a recipe has a quantization, and nothing comes after it"
    settings = {name: value for name, value in vars(last).items() if name not in ("kind", "train")}
    quantization = Quantization(train=last.train if last.method == "qat" else None, **settings)
    return [one for one in shrinking if not isinstance(one, Quantize)], quantization
