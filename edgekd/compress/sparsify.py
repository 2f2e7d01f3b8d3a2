"""Sparsity: weights of a small magnitude become zeros, and stay zeros while the rest is trained on."""

import copy
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from edgekd.compress.weights import Layer, require_float, weighted_layers
from edgekd.errors import UsageError

Pattern = Literal["unstructured", "2:4"]

GROUP, ZEROS = 4, 2
"""A group of 2:4 sparsity along the inputs, and how many of it are zeros."""
COMPRESSION = 9
"""The level of zlib that `Sparsity.compressed` is measured with."""
GAINS: Mapping[str, str] = {
    "ai-edge-litert": "no gain in int8, nor on x86; on ARM, float32 networks of 1x1 and depthwise convolutions gain "
    "from two thirds of zeros on (TensorFlow's XNNPACK README, Sparse Inference)",
    "tflite-runtime": "not measured: its XNNPACK has the sparse kernels of LiteRT's, for float32 on ARM "
    "(TensorFlow's XNNPACK README, Sparse Inference)",
    "onnxruntime": "no gain: no kernel takes sparse weights, and those of a file become dense when it is loaded "
    "(microsoft/onnxruntime, issue 5578)",
    "openvino": "no gain: zeros are multiplied like any number (CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE, off by default, "
    "packs weights of matrix products: OpenVINO's CPU properties, and its notebook of sparse models on AMX)",
    "coreml": "not measured: Apple says that the Neural Engine gains from weights that a file stores sparsely, and "
    "here they are stored densely (coremltools' guide, Pruning, Performance)",
}
"""What zeros in weights do for the speed of each runtime: what it documents, tried on x86 where it runs there."""


def sparsify(model: nn.Module, *, pattern: Pattern, share: float | None = None) -> nn.Module:
    """A copy in which the smallest weights of linear and convolution layers are zero.

    unstructured: `share`, in (0, 1), of each layer's weights, to the nearest whole number; of equal weights the first
    go. Magnitude decides (Han et al. 2015), within each layer alone (Zhu & Gupta 2017): between layers it says nothing
    where a batch norm follows, and one threshold for all can empty a layer. 2:4: two in every four neighbours along the
    inputs, of a convolution its input channels, at every place of its kernel (Mishra et al. 2021).

    What stays as it is: convolutions that see fewer than four channels, which are the depthwise ones and the one on the
    pixels or the spectrogram (few weights, and sensitive ones; Zhu & Gupta leave them, too); embeddings; weights that
    layers share; with 2:4, layers whose inputs are not a multiple of four. The output layer takes part as any linear
    one: in a small network much of all weights is there.

    Raises UsageError for a share that is missing, given with 2:4, not in (0, 1), or so high that a layer loses every
    weight; for a weight that is not finite, a quantized model, and if there is nothing to make sparse.
    """
    if pattern == "2:4" and share is not None:
        raise UsageError("sparsify: 2:4 makes half of the weights zeros; leave share out, or take unstructured")
    if pattern == "unstructured" and (share is None or not 0 < share < 1):
        raise UsageError(f"sparsify: share must be above 0 and below 1, not {share}")
    require_float(model, "sparsify")
    sparse, changed = copy.deepcopy(model), 0
    for name, layer in _layers(sparse).items():
        if not layer.weight.isfinite().all():
            raise UsageError(f"sparsify: the weight of '{name}' holds NaN or infinity")
        zeros = _two_of_four(layer.weight) if share is None else _smallest(layer.weight, share)
        if zeros.all():
            raise UsageError(f"sparsify: share {share} takes all {zeros.numel()} weights of '{name}'; lower it")
        with torch.no_grad():
            layer.weight.masked_fill_(zeros, 0.0)
        changed += int(zeros.sum())
    if not changed:
        raise UsageError(
            f"sparsify: there is no weight to make zero in {type(model).__name__}; convolutions of fewer than {GROUP} "
            f"channels stay as they are, and 2:4 needs inputs in multiples of {GROUP}"
        )
    return sparse


@contextmanager
def holding_zeros(model: nn.Module) -> Iterator[None]:
    """While the context lasts, training keeps every weight that is zero now, in the layers `sparsify` takes, at zero.

    Their gradients are zero, and so is what momentum, AdamW and weight decay make of them: for optimizers that are made
    within the context. The model may have quantizers: those of weights are symmetric, and keep zeros, too.
    """
    handles = []
    for layer in _layers(model).values():
        zeros = layer.weight.detach() == 0
        if zeros.any():
            handles.append(layer.weight.register_hook(_Mask(zeros)))  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Sparsity:
    """How many weights are zero, and what that is worth in bytes.

    zeros: the share of zeros among all parameters of the model. layers: that of each linear or convolution weight, by
    module path. bytes: the parameters as they are kept. compressed: the same bytes after zlib, level 9.
    """

    zeros: float
    layers: dict[str, float]
    bytes: int
    compressed: int


def sparsity_of(model: nn.Module) -> Sparsity:
    parameters = [parameter.detach().cpu().flatten() for parameter in model.parameters()]
    content = b"".join(one.contiguous().view(torch.uint8).numpy().tobytes() for one in parameters)
    count = sum(one.numel() for one in parameters)
    return Sparsity(
        sum(int((one == 0).sum()) for one in parameters) / max(count, 1),
        {name: float((layer.weight == 0).double().mean()) for name, layer in weighted_layers(model).items()},
        len(content),
        len(zlib.compress(content, COMPRESSION)),
    )


class _Mask:
    """Gradients without those of the weights that are held; on whatever device they come."""

    def __init__(self, zeros: torch.Tensor) -> None:
        self.zeros = zeros

    def __call__(self, gradient: torch.Tensor) -> torch.Tensor:
        self.zeros = self.zeros.to(gradient.device)
        return gradient.masked_fill(self.zeros, 0.0)


def _layers(model: nn.Module) -> dict[str, Layer]:
    return {
        name: layer
        for name, layer in weighted_layers(model).items()
        if isinstance(layer, nn.Linear) or layer.weight.shape[1] >= GROUP
    }


def _smallest(weight: torch.Tensor, share: float) -> torch.Tensor:
    """True for the share of a weight that is smallest."""
    flat = weight.detach().abs().flatten()
    zeros = torch.zeros_like(flat, dtype=torch.bool)
    zeros[flat.argsort(stable=True)[: round(share * len(flat))]] = True
    return zeros.reshape(weight.shape)


def _two_of_four(weight: torch.Tensor) -> torch.Tensor:
    """True for the two smallest in every four along dimension 1; nowhere, if that is not a multiple of four."""
    zeros = torch.zeros_like(weight, dtype=torch.bool)
    if weight.shape[1] % GROUP == 0:
        moved = weight.detach().abs().movedim(1, -1)
        groups = moved.reshape(*moved.shape[:-1], -1, GROUP)
        smallest = groups.argsort(dim=-1, stable=True)[..., :ZEROS]
        found = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, smallest, True)
        zeros = found.flatten(-2).movedim(-1, 1)
    return zeros
