"""NNCF, set up for quantization-aware training on any machine: no compiler, no log lines, no telemetry."""

import copy
import logging
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # NNCF would send usage statistics with it

import nncf
import nncf.torch.quantization.extensions as nncf_extensions
from nncf.common.quantization.structs import QuantizationScheme
from nncf.quantization.advanced_parameters import (
    AdvancedQuantizationParameters,
    AdvancedSmoothQuantParameters,
    OverflowFix,
    QuantizationParameters,
)
from nncf.quantization.range_estimator import RangeEstimatorParametersSet
from nncf.torch.function_hook import get_hook_storage
from nncf.torch.function_hook.hook_storage import decode_hook_name
from nncf.torch.function_hook.nncf_graph.nncf_graph_builder import build_nncf_graph
from nncf.torch.quantization.layers import AsymmetricQuantizer, BaseQuantizer, PTQuantizerSpec, SymmetricQuantizer
from nncf.torch.quantization.reference import ReferenceBackendType, ReferenceQuantize

from edgekd.quiet import quiet

HOOKS_PREFIX = "__nncf_hooks."
CONSTANT = "nncf_model_const"
LAYERS, EMBEDDING = ("linear", "conv2d"), "embedding"
WEIGHTED = {"linear", *(f"conv{kind}{dimensions}d" for kind in ("", "_transpose") for dimensions in (1, 2, 3))}
CARRIERS = (
    "relu", "relu_", "relu6", "hardtanh", "dropout", "reshape", "view", "flatten", "transpose", "permute", "chunk",
)  # fmt: skip
"""What a runtime does in one step with the layer before it, or does to 8-bit numbers as they are."""
PAD, SLICE, ADDITIONS = "pad", "__getitem__", ("add", "__add__")
MOVERS = (*CARRIERS, SLICE)
JOINS, POOLS = ("cat", PAD, SLICE), ("max_pool1d", "max_pool2d", "max_pool3d")
FLOATS = ("div", "gelu", "group_norm", "hardswish", "layer_norm", "silu", "softmax")
"""What files compute in float."""
CALIBRATION_BATCH = 32
SHARES = [share / 50 for share in range(50, 24, -1)]

nncf.set_log_level(logging.ERROR)


class _Arithmetic(ReferenceQuantize):  # type: ignore[misc]
    """What NNCF's extensions in C++ and CUDA compute, in plain torch, so that nothing is built at the first forward
    pass; but numbers are rounded to the nearest multiple of the scale, as runtimes do.

    NNCF rounds the distance from the low end of the range. Training moves that end a little below the zero of a ReLU,
    off the grid, and all numbers would be rounded up that much more often than a file rounds them.
    """

    def forward(
        self, input_: torch.Tensor, input_low: torch.Tensor, input_range: torch.Tensor, levels: int
    ) -> torch.Tensor:
        scale = (levels - 1) / input_range
        zero_point = (-input_low * scale).round()
        numbers = (input_ * scale).round() + zero_point
        return (numbers.clip(0, levels - 1) - zero_point) / scale


_arithmetic = _Arithmetic(ReferenceBackendType.TORCH)
for _functions in (nncf_extensions.QuantizedFunctionsCPU, nncf_extensions.QuantizedFunctionsCUDA):
    _functions._loaded_namespace = SimpleNamespace(
        Quantize_forward=_arithmetic.forward, Quantize_backward=_arithmetic.backward
    )


class Wrapped(nn.Module):
    """A Sequential calls whatever is attached to it, and NNCF attaches its hooks to the outermost module."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.model(inputs)
        return outputs


def _hookable(model: nn.Module) -> nn.Module:
    return Wrapped(model) if isinstance(model, nn.Sequential) else model


def insert_quantizers(model: nn.Module, calibration: torch.Tensor, weight_bits: int = 8) -> nn.Module:
    """Insert int8 quantizers, calibrated on `calibration` (float32, shape (N, ...)), into a copy of the model.

    Weights are symmetric and per channel, -127 to 127, or -7 to 7 where `weight_bits` is 4; activations are asymmetric
    and per tensor, because a frozen per-channel activation does not exist in the exported formats, and go from the
    smallest to the largest number that there is in any sample. An embedding has 8 bits and one scale, so that looking
    up rows leaves 8-bit numbers of one scale. The output is quantized as well, and so is that of every linear layer and
    convolution: no runtime has an integer kernel for one that gives floats. Weights of one dimension, as a
    normalisation has, stay float. Nothing is rescaled behind the user's back: no overflow fix, no SmoothQuant, no bias
    correction.
    """
    samples = torch.split(calibration, CALIBRATION_BATCH)
    example = torch.zeros_like(calibration[:1]).contiguous()
    scheme = AdvancedQuantizationParameters(
        overflow_fix=OverflowFix.DISABLE,
        quantize_outputs=True,
        disable_bias_correction=True,
        weights_quantization_params=QuantizationParameters(narrow_range=True),
        activations_quantization_params=QuantizationParameters(per_channel=False),
        activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
        smooth_quant_alphas=AdvancedSmoothQuantParameters(matmul=-1, convolution=-1),
    )
    with quiet():
        quantized: nn.Module = nncf.quantize(
            _hookable(model),
            nncf.Dataset(samples),
            subset_size=len(samples),
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            advanced_parameters=scheme,
        )
    _adapt_weight_quantizers(quantized, example, weight_bits)
    _close_layers(quantized, example, samples)
    _open_floats(quantized, example)
    _close_joins(quantized, example)
    _quantize_addends(quantized, example)
    return quantized


def pin_input(model: nn.Module, example: torch.Tensor, low: float, high: float) -> None:
    """Fix the range of the input's quantizer: it is not trained any more."""
    inputs = {node.node_name for node in build_nncf_graph(model, example).get_input_nodes()}
    for placed in quantizers_of(model, example):
        quantizer = placed.quantizer
        if placed.tensor in inputs and isinstance(quantizer, AsymmetricQuantizer):
            with torch.no_grad():
                quantizer.input_low.fill_(low)
                quantizer.input_range.fill_(high - low)
            quantizer.input_low.requires_grad_(False)
            quantizer._input_range_param_storage.requires_grad_(False)


def open_output(model: nn.Module, example: torch.Tensor, low: float, high: float) -> None:
    """Let the output's quantizer start from a range; it is trained on."""
    placed = quantizers_of(model, example)
    used = {source for one in placed for source in one.sources}
    *_, last = (one for position, one in enumerate(placed) if not one.is_weight and position not in used)
    if isinstance(last.quantizer, AsymmetricQuantizer):
        with torch.no_grad():
            last.quantizer.input_low.fill_(low)
            last.quantizer.input_range.fill_(high - low)


def is_quantized(model: nn.Module) -> bool:
    """Are there quantizers in it already?"""
    return any(HOOKS_PREFIX in f"{name}." for name, _ in model.named_modules())


def weighted_layers(model: nn.Module, example: torch.Tensor) -> list[str]:
    """Module paths of the layers whose weights are quantized, in the order of the graph."""
    placed = quantizers_of(model, example)
    return list(dict.fromkeys(one.tensor.rpartition(".")[0] for one in placed if one.is_weight))


def keep_float(model: nn.Module, example: torch.Tensor, layers: Collection[str]) -> nn.Module:
    """A copy in which these layers compute in float: their weights and what comes out of them are not quantized.

    Nor are the weights of layers that then take float numbers. The output of the model is quantized as before.
    """
    kept = copy.deepcopy(model)
    placed = quantizers_of(kept, example)
    used = {source for one in placed for source in one.sources}
    own = {position for position, one in enumerate(placed) if one.is_weight and one.tensor.rpartition(".")[0] in layers}
    behind = {
        position
        for position, one in enumerate(placed)
        if not one.is_weight and position in used and own & set(one.sources)
    }
    fed = {
        source
        for one in placed
        if not one.is_weight and behind & set(one.sources)
        for source in one.sources
        if placed[source].is_weight
    }
    for position in own | behind | fed:
        replace_quantizers(kept, placed[position].hooks, None)
    return kept


def get_config(model: nn.Module) -> dict[str, Any]:
    config: dict[str, Any] = nncf.torch.get_config(model)
    return config


def restore(model: nn.Module, config: dict[str, Any]) -> nn.Module:
    """Put quantizers as `get_config` described them into a model without any."""
    restored: nn.Module = nncf.torch.load_from_config(_hookable(model), config)
    return restored


@dataclass(frozen=True)
class PlacedQuantizer:
    """A quantizer and where it sits.

    hooks: NNCF's names for its places; a weight that is used twice has two.
    tensor: a parameter's full name, or the operation whose output is quantized.
    sources: positions, in the list it comes in, of the quantizers that its tensor is computed from.
    """

    hooks: tuple[str, ...]
    tensor: str
    is_weight: bool
    sources: tuple[int, ...]
    quantizer: BaseQuantizer


def quantizers_of(model: nn.Module, example: torch.Tensor) -> list[PlacedQuantizer]:
    """Every quantizer in the order of the graph."""
    graph = build_nncf_graph(model, example)
    hooks = hooks_of(model)
    placed: list[PlacedQuantizer] = []
    reached: dict[int, frozenset[int]] = {}
    for node in graph.topological_sort():
        edges = sorted(graph.get_input_edges(node), key=lambda edge: edge.input_port_id)
        sources = frozenset().union(*(reached[edge.from_node.node_id] for edge in edges))
        if node.node_type.endswith("_quantize"):
            tensor, hook = edges[0].from_node, _hook_of(edges[-1].from_node)
            is_weight = tensor.node_type == CONSTANT
            found = PlacedQuantizer(
                (hook,), tensor.node_name, is_weight, tuple(sorted(sources)), hooks.get_submodule(hook)
            )
            position = next((p for p, known in enumerate(placed) if _is_again(found, known, p)), None)
            if position is None:
                placed.append(found)
                position = len(placed) - 1
            else:
                placed[position] = replace(placed[position], hooks=(*placed[position].hooks, hook))
            sources = frozenset({position})
        reached[node.node_id] = sources
    return placed


def _is_again(found: PlacedQuantizer, known: PlacedQuantizer, position: int) -> bool:
    """Is it a quantizer that is known: of a weight that is used twice, or of numbers that were only moved since?"""
    if found.is_weight:
        return known.tensor == found.tensor
    return found.sources == (position,) and known.quantizer is found.quantizer


def operation_of(hook: str) -> str:
    """The operation whose inputs or output a hook changes."""
    return str(decode_hook_name(hook)[1])


def replace_quantizers(model: nn.Module, originals: Sequence[str], replacement: nn.Module | None) -> None:
    """Put `replacement` wherever the quantizers of these hooks are used, or take them out.

    Tensors that are joined later share one, and with the first of its hooks all are done.
    """
    hooks = hooks_of(model)
    places = dict(hooks.named_hooks(remove_duplicate=False))
    quantizers = [places[name] for name in originals if name in places]
    for name, found in places.items():
        if not any(found is quantizer for quantizer in quantizers):
            continue
        if replacement is None:
            hooks.delete_hook(name)
        else:
            hooks.set_submodule(name, replacement)


def _adapt_weight_quantizers(model: nn.Module, example: torch.Tensor, bits: int) -> None:
    """One weight has one scale: where a layer is used twice, both uses get the same quantizer before it is trained.
    An embedding gets one for its whole table; a vector gets none. Those of linear layers and convolutions get `bits`.
    """
    types = {node.node_name: node.node_type for node in build_nncf_graph(model, example).get_all_nodes()}
    for placed in quantizers_of(model, example):
        if not placed.is_weight:
            continue
        weight = model.get_parameter(placed.tensor)
        users = {types[operation_of(hook)] for hook in placed.hooks}
        if weight.ndim == 1:
            replace_quantizers(model, placed.hooks, None)
        elif EMBEDDING in users:
            replace_quantizers(model, placed.hooks, _quantizer(-weight.abs().max(), weight.abs().max(), True))
        else:
            if users <= WEIGHTED and bits != placed.quantizer.num_bits:
                _narrow(placed.quantizer, bits, weight.detach())
            replace_quantizers(model, placed.hooks, placed.quantizer)


def _narrow(quantizer: BaseQuantizer, bits: int, weight: torch.Tensor) -> None:
    """Give a weight fewer bits. Of few steps none should be wasted on the largest number: each range becomes the share
    of itself with the least squared error, of what is rounded and what is cut off together.
    """
    quantizer.num_bits = bits
    full = quantizer.scale.detach().clone()
    best, least = full, torch.full_like(full, torch.inf)
    with torch.no_grad():
        for share in SHARES:
            quantizer.scale.copy_(share * full)
            error = (quantizer.quantize(weight) - weight).square().sum_to_size(full.shape)
            best, least = torch.where(error < least, share * full, best), torch.minimum(error, least)
        quantizer.scale.copy_(best)


def _close_layers(model: nn.Module, example: torch.Tensor, samples: Sequence[torch.Tensor]) -> None:
    """Put a quantizer behind every linear layer and convolution that has none, with the samples' smallest and largest
    output as its range, as the others have. Where some users of a layer had one already, it goes: numbers are not
    quantized twice.
    """
    graph = build_nncf_graph(model, example)
    open_layers = [
        node.node_name
        for node in graph.get_all_nodes()
        if node.node_type in LAYERS and not all(_is_closed(graph, user) for user in graph.get_next_nodes(node))
    ]
    if not open_layers:
        return
    observers = {name: _Observer() for name in open_layers}
    handles = [hooks_of(model).register_post_function_hook(name, 0, observers[name]) for name in open_layers]
    with torch.no_grad():
        for sample in samples:
            model(sample)
    for handle in handles:
        handle.remove()
    for name, observer in observers.items():
        hooks_of(model).register_post_function_hook(name, 0, _quantizer(observer.low, observer.high, False))
    _drop_second_quantizers(model, example)


def _drop_second_quantizers(model: nn.Module, example: torch.Tensor) -> None:
    """Take out each quantizer that is right behind another, but for one that joined tensors share."""
    types = {node.node_name: node.node_type for node in build_nncf_graph(model, example).get_all_nodes()}
    placed = quantizers_of(model, example)
    for second in placed:
        if types[second.tensor].endswith("_quantize") and not _is_shared(second, placed):
            replace_quantizers(model, second.hooks, None)


def _is_shared(one: PlacedQuantizer, placed: Sequence[PlacedQuantizer]) -> bool:
    return sum(other.quantizer is one.quantizer for other in placed) > 1


def _open_floats(model: nn.Module, example: torch.Tensor) -> None:
    """Take out each quantizer between two operations in float: it only costs accuracy, and a converter may leave it out
    of its file.
    """
    graph, placed = build_nncf_graph(model, example), quantizers_of(model, example)
    for one in placed:
        node = graph.get_node_by_name(one.tensor)
        if (
            not one.is_weight
            and not _is_shared(one, placed)
            and _comes_from_float(graph, node)
            and _goes_to_float(graph, node)
        ):
            replace_quantizers(model, one.hooks, None)


def _comes_from_float(graph: Any, node: Any) -> bool:
    if node.node_type in MOVERS:
        return all(_comes_from_float(graph, before) for before in graph.get_previous_nodes(node))
    return node.node_type in FLOATS


def _goes_to_float(graph: Any, node: Any) -> bool:
    users = graph.get_next_nodes(node)
    return bool(users) and all(
        user.node_type in FLOATS
        or ((user.node_type in MOVERS or user.node_type.endswith("_quantize")) and _goes_to_float(graph, user))
        for user in users
    )


def _close_joins(model: nn.Module, example: torch.Tensor) -> None:
    """Put the quantizer that joined tensors share behind their join as well, and that of padded or cut ones: no number
    changes, and a runtime that looks right before a layer finds 8-bit numbers. A padding by nothing is none.
    """
    graph, places = build_nncf_graph(model, example), dict(hooks_of(model).named_hooks(remove_duplicate=False))
    for node in graph.get_all_nodes():
        users = graph.get_next_nodes(node)
        if node.node_type not in JOINS or all(_is_closed(graph, user) for user in users):
            continue
        if node.node_type == SLICE and not any(user.node_type in LAYERS for user in users):
            continue
        if node.node_type == PAD and _shapes(graph.get_input_edges(node)) == _shapes(graph.get_output_edges(node)):
            continue
        shared = _quantizer_before(graph, node, places)
        if shared is not None:
            hooks_of(model).register_post_function_hook(node.node_name, 0, shared)


def _shapes(edges: Sequence[Any]) -> set[tuple[int, ...]]:
    return {tuple(edge.tensor_shape) for edge in edges}


def _quantize_addends(model: nn.Module, example: torch.Tensor) -> None:
    """Quantize each parameter that is added to 8-bit numbers: a runtime that adds integers needs them on both sides."""
    graph, places = build_nncf_graph(model, example), dict(hooks_of(model).named_hooks(remove_duplicate=False))
    for node in graph.get_all_nodes():
        before = graph.get_previous_nodes(node)
        added = [one.node_name for one in before if one.node_type == CONSTANT]
        others = [one for one in before if one.node_type != CONSTANT]
        if node.node_type not in ADDITIONS or len(added) != 1 or len(others) != 1:
            continue
        if _quantizer_before(graph, others[0], places) is not None:
            largest = model.get_parameter(added[0]).abs().max()
            hooks_of(model).register_post_function_hook(added[0], 0, _quantizer(-largest, largest, True))


def _quantizer_before(graph: Any, node: Any, places: Mapping[str, nn.Module]) -> nn.Module | None:
    """The quantizer that gave a node's numbers, if nothing has changed them since; where some are joined, all numbers.

    places: hook -> quantizer.
    """
    before = graph.get_previous_nodes(node)
    if node.node_type.endswith("_quantize"):
        edges = sorted(graph.get_input_edges(node), key=lambda edge: edge.input_port_id)
        return places.get(_hook_of(edges[-1].from_node))
    if node.node_type not in JOINS and (node.node_type not in (*CARRIERS, *POOLS) or len(before) != 1):
        return None
    first, *others = (_quantizer_before(graph, one, places) for one in before)
    return first if all(one is first for one in others) else None


def _hook_of(parameter: Any) -> str:
    """The hook that a quantizer's parameter belongs to."""
    return str(parameter.node_name.removeprefix(HOOKS_PREFIX).rpartition(".")[0])


class _Observer(nn.Module):
    """Passes tensors on and keeps the smallest and the largest number of all."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = torch.tensor(torch.inf), torch.tensor(-torch.inf)

    def forward(self, outputs: torch.Tensor) -> torch.Tensor:
        self.low, self.high = torch.minimum(self.low, outputs.min()), torch.maximum(self.high, outputs.max())
        return outputs


def _is_closed(graph: Any, node: Any) -> bool:
    """Does a quantizer follow, with nothing before it that would make a runtime compute in float?"""
    if node.node_type in CARRIERS:
        users = graph.get_next_nodes(node)
        return bool(users) and all(_is_closed(graph, user) for user in users)
    return bool(node.node_type.endswith("_quantize"))


def _quantizer(low: torch.Tensor, high: torch.Tensor, symmetric: bool) -> BaseQuantizer:
    """A per-tensor int8 quantizer for this range: symmetric with -127 to 127, or asymmetric with 256 levels."""
    kind, mode = (
        (SymmetricQuantizer, QuantizationScheme.SYMMETRIC)
        if symmetric
        else (AsymmetricQuantizer, QuantizationScheme.ASYMMETRIC)
    )
    quantizer: BaseQuantizer = kind(
        PTQuantizerSpec(
            num_bits=8,
            mode=mode,
            signedness_to_force=True if symmetric else None,
            narrow_range=symmetric,
            half_range=False,
            scale_shape=(1,),
            logarithm_scale=False,
        )
    )
    with torch.no_grad():
        if isinstance(quantizer, SymmetricQuantizer):
            quantizer.scale.fill_(high)
        else:
            quantizer.input_low.fill_(low)
            quantizer.input_range.fill_(high - low)
    return quantizer


def hooks_of(model: nn.Module) -> Any:
    """Where NNCF keeps the quantizers of a model, by hook name."""
    return get_hook_storage(model)
