"""NNCF, set up for quantization-aware training on any machine: no compiler, no log lines, no telemetry."""

import logging
import sys
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # NNCF would send usage statistics with it

import nncf
import nncf.torch.quantization.extensions as nncf_extensions
from nncf.quantization.advanced_parameters import (
    AdvancedQuantizationParameters,
    AdvancedSmoothQuantParameters,
    OverflowFix,
    QuantizationParameters,
)
from nncf.torch.function_hook import get_hook_storage
from nncf.torch.function_hook.hook_storage import decode_hook_name
from nncf.torch.function_hook.nncf_graph.nncf_graph_builder import build_nncf_graph
from nncf.torch.model_graph_manager import get_const_node
from nncf.torch.quantization.layers import AsymmetricQuantizer, BaseQuantizer
from nncf.torch.quantization.reference import torch_executor

from edgekd.quiet import quiet

nncf.set_log_level(logging.ERROR)

# The arithmetic of NNCF's C++ extension in plain torch: nothing is built at the first forward pass.
nncf_extensions.QuantizedFunctionsCPU._loaded_namespace = SimpleNamespace(
    Quantize_forward=torch_executor.forward, Quantize_backward=torch_executor.backward
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


def insert_quantizers(model: nn.Module, calibration: torch.Tensor) -> nn.Module:
    """Insert int8 quantizers, calibrated on `calibration` (float32, shape (N, ...)), into a copy of the model.

    Weights are symmetric, -127 to 127, and per channel; activations are asymmetric and per tensor, because a frozen
    per-channel activation does not exist in the exported formats. The output is quantized as well. Nothing is rescaled
    behind the user's back: no overflow fix, no SmoothQuant, no bias correction.
    """
    samples = [sample[None].clone() for sample in calibration]
    scheme = AdvancedQuantizationParameters(
        overflow_fix=OverflowFix.DISABLE,
        quantize_outputs=True,
        disable_bias_correction=True,
        weights_quantization_params=QuantizationParameters(narrow_range=True),
        activations_quantization_params=QuantizationParameters(per_channel=False),
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
    return quantized


def pin_input(model: nn.Module, example: torch.Tensor, low: float, high: float) -> None:
    """Fix the range of the input's quantizer: it is not trained any more."""
    inputs = {node.node_name for node in build_nncf_graph(model, example).get_input_nodes()}
    for _, tensor, _, quantizer in quantizers_of(model, example):
        if tensor in inputs and isinstance(quantizer, AsymmetricQuantizer):
            with torch.no_grad():
                quantizer.input_low.fill_(low)
                quantizer.input_range.fill_(high - low)
            quantizer.input_low.requires_grad_(False)
            quantizer._input_range_param_storage.requires_grad_(False)


def get_config(model: nn.Module) -> dict[str, Any]:
    config: dict[str, Any] = nncf.torch.get_config(model)
    return config


def restore(model: nn.Module, config: dict[str, Any]) -> nn.Module:
    """Put quantizers as `get_config` described them into a model without any."""
    restored: nn.Module = nncf.torch.load_from_config(_hookable(model), config)
    return restored


def quantizers_of(model: nn.Module, example: torch.Tensor) -> list[tuple[str, str, bool, BaseQuantizer]]:
    """Every active quantizer as (hook name, tensor, is it a weight, quantizer), in the order of the graph.

    The tensor of a weight is the parameter's full name, taken from the graph's constant node; of an activation, the
    operation whose output it is.
    """
    graph = build_nncf_graph(model, example)
    order = {node.node_name: position for position, node in enumerate(graph.topological_sort())}
    found = []
    for name, quantizer in get_hook_storage(model).named_hooks():
        if not isinstance(quantizer, BaseQuantizer):
            continue
        kind, operation, port = decode_hook_name(name)
        constant = _constant(graph, operation, port) if kind == "pre_hooks" else None
        tensor = constant.layer_attributes.name if constant else _source(graph, kind, operation, port)
        found.append((order.get(operation, len(order)), constant is None, name, tensor, quantizer))
    found.sort(key=lambda entry: entry[:3])
    return [(name, tensor, not is_activation, quantizer) for _, is_activation, name, tensor, quantizer in found]


def hooks_of(model: nn.Module) -> Any:
    """Where NNCF keeps the quantizers of a model, by hook name."""
    return get_hook_storage(model)


def _constant(graph: Any, operation: str, port: int) -> Any:
    try:
        return get_const_node(graph.get_node_by_name(operation), port, graph)
    except nncf.InternalError:
        return None


def _source(graph: Any, kind: str, operation: str, port: int) -> str:
    """The operation whose output a quantizer sees: its own for a post hook, the one feeding the port for a pre hook."""
    if kind == "post_hooks":
        return operation
    for edge in graph.get_input_edges(graph.get_node_by_name(operation)):
        if edge.input_port_id == port:
            return str(edge.from_node.node_name)
    return operation
