"""Weights of 4 bits in a full-integer .tflite file."""

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekd.export.int4 import fits, packed
from edgekd.export.tflite_graph import op_of, opcode, read, set_constant, written

Op, Type = schema.BuiltinOperator, schema.TensorType
INT4_VERSION = 10
WEIGHT = 1
"""Of a layer's inputs."""


def pack_weights(content: bytes) -> bytes:
    """Store two a byte the weights that have 4 bits, where XNNPACK takes them so.

    It does for fully connected layers whose rows fill whole bytes; a 1x1 convolution of stride 1 is one, and is written
    as one. The other convolutions it takes with 8 bits alone: their numbers stay in int8. No answer changes.
    """
    model = read(content)
    graph = model.subgraphs[0]
    for index, tensor in enumerate(graph.tensors):
        users = [one for one in graph.operators if index in one.inputs]
        data = model.buffers[tensor.buffer].data
        if tensor.type != Type.INT8 or data is None or not all(_takes(model, user, index) for user in users):
            continue
        numbers = np.asarray(data, dtype=np.uint8).view(np.int8)
        if not users or not fits(numbers):
            continue
        for user in users:
            _connect(model, user)
        tensor.type, tensor.shape = Type.INT4, np.array([tensor.shape[0], tensor.shape[-1]], dtype=np.int32)
        set_constant(model, tensor, packed(numbers))
    return written(model)


def _takes(model: Any, layer: Any, index: int) -> bool:
    """Does XNNPACK take this tensor as a layer's weight of 4 bits?"""
    op, options = op_of(model, layer), layer.builtinOptions
    source, weight = (model.subgraphs[0].tensors[place] for place in (layer.inputs[0], index))
    if op not in (Op.FULLY_CONNECTED, Op.CONV_2D) or layer.inputs[WEIGHT] != index or weight.shape[-1] % 2:
        return False
    return bool(
        op == Op.FULLY_CONNECTED
        or (*weight.shape[1:], options.strideH, options.strideW) == (1, 1, source.shape[-1], 1, 1)
    )


def _connect(model: Any, layer: Any) -> None:
    """A fully connected layer with a weight of 4 bits, of what may be a 1x1 convolution."""
    if op_of(model, layer) == Op.CONV_2D:
        options = schema.FullyConnectedOptionsT()
        options.fusedActivationFunction, options.keepNumDims = layer.builtinOptions.fusedActivationFunction, True
        layer.builtinOptionsType, layer.builtinOptions = schema.BuiltinOptions.FullyConnectedOptions, options
    layer.opcodeIndex = opcode(model, Op.FULLY_CONNECTED, INT4_VERSION)
