"""Constants of a .tflite file in fewer bytes, for a model whose arithmetic stays float32.

A stored constant is read through a DEQUANTIZE operation, which XNNPACK does once, when the file is loaded. A table
that rows are looked up in stays as it is stored: only the rows are dequantized.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekd.compress.quantizers import Quantizer
from edgekd.export.tflite_graph import (
    add_constant,
    add_tensor,
    float_constants,
    op_of,
    opcode,
    operation,
    read,
    set_constant,
    written,
)

SMALLEST = 64
"""Elements; a smaller float16 constant saves less than its operation takes."""

Op, Type = schema.BuiltinOperator, schema.TensorType

DEQUANTIZE_VERSION = {Type.FLOAT16: 3, Type.INT8: 2}
DEQUANTIZE_PER_CHANNEL_VERSION = 5
GATHER_VERSION = {Type.FLOAT16: 1, Type.INT8: 2}
LOOKUP_PER_ROW_VERSION = 4


def halve_weights(content: bytes) -> bytes:
    """Store float32 constants as float16: weights, tables and large biases.

    A constant that float16 cannot hold (beyond 65,504) stays as it is.
    """
    model = read(content)
    for index, values in float_constants(model):
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if values.size < SMALLEST or not np.isfinite(halves).all():
            continue
        stored = add_constant(model, index, halves)
        lookups, others = _users(model, index)
        for lookup in lookups:
            _dequantize_rows(model, lookup, stored)
        if others:
            _dequantize_constant(model, stored, index)
    return written(model)


def store_weights(content: bytes) -> bytes:
    """Store as int8 the float32 constants that the model quantizes when it runs: what QUANTIZE makes of one.

    It is stored in the layout that it is used in: XNNPACK takes no layer whose weight is turned when the model runs.
    """
    model = read(content)
    graph, constants = model.subgraphs[0], dict(float_constants(model))
    for operator in [one for one in graph.operators if op_of(model, one) == Op.QUANTIZE]:
        values = constants.get(int(operator.inputs[0]))
        if values is None:
            continue
        stored = graph.tensors[operator.outputs[0]]
        numbers = _numbers(values, stored.quantization)
        set_constant(model, stored, np.clip(numbers, -128, 127).astype(np.int8))
        graph.operators.remove(operator)
        while _lay_out(model, int(operator.outputs[0])):
            pass
    return written(model)


def store_embeddings(content: bytes, quantized: Sequence[Quantizer]) -> bytes:
    """Store as int8 the float32 tables of lookups that a weight quantizer reproduces bit for bit.

    With one scale, int8 rows are gathered and then dequantized. With one scale a row, EMBEDDING_LOOKUP does both.
    """
    model = read(content)
    for index, values in float_constants(model):
        lookups, _ = _users(model, index)
        found = _on_grid(values, quantized) if lookups else None
        if found is None or found[1].quantizedDimension != 0:
            continue
        stored = add_constant(model, index, *found)
        for lookup in lookups:
            if len(found[1].scale) > 1:
                lookup.inputs = np.array([lookup.inputs[0], stored], dtype=np.int32)
                lookup.opcodeIndex = opcode(model, Op.EMBEDDING_LOOKUP, LOOKUP_PER_ROW_VERSION)
            else:
                _dequantize_rows(model, lookup, stored)
    return written(model)


def _lay_out(model: Any, index: int) -> bool:
    """Take in the TRANSPOSE or RESHAPE that alone reads what is dequantized from a stored constant, if there is one."""
    graph, stored = model.subgraphs[0], model.subgraphs[0].tensors[index]
    readers = [operator for operator in graph.operators if index in operator.inputs]
    users = [operator for one in readers for operator in graph.operators if one.outputs[0] in operator.inputs]
    if [op_of(model, one) for one in readers] != [Op.DEQUANTIZE] or len(users) != 1:
        return False
    numbers = _data(model, stored).view(np.int8).reshape(stored.shape)
    axis = int(stored.quantization.quantizedDimension)
    if op_of(model, users[0]) == Op.TRANSPOSE:
        order = _data(model, graph.tensors[users[0].inputs[1]]).view(np.int32).tolist()
        turned, place = numbers.transpose(order), order.index(axis)
    elif op_of(model, users[0]) == Op.RESHAPE:
        turned = numbers.reshape(graph.tensors[users[0].outputs[0]].shape)
        place = _same_axis(numbers.shape, turned.shape, axis)
    else:
        return False
    if place is None:
        return False
    set_constant(model, stored, turned)
    stored.shape, stored.quantization.quantizedDimension = np.array(turned.shape, dtype=np.int32), place
    readers[0].outputs = users[0].outputs
    graph.operators.remove(users[0])
    return True


def _data(model: Any, tensor: Any) -> np.ndarray:
    return np.asarray(model.buffers[tensor.buffer].data, dtype=np.uint8)


def _same_axis(before: Sequence[int], after: Sequence[int], axis: int) -> int | None:
    """Where an axis of an array is once the array has another shape, or None."""
    place = int(np.prod(before[:axis]))
    found = (a for a, side in enumerate(after) if side == before[axis] and int(np.prod(after[:a])) == place)
    return next(found, None)


def _numbers(values: np.ndarray, parameters: Any) -> np.ndarray:
    """Values in steps of their scales, rounded to the nearest, half to even."""
    scale, zero_point = (np.asarray(one, dtype=np.float32) for one in (parameters.scale, parameters.zeroPoint))
    if len(scale) > 1:
        along = [-1 if axis == parameters.quantizedDimension else 1 for axis in range(values.ndim)]
        scale, zero_point = scale.reshape(along), zero_point.reshape(along)
    numbers: np.ndarray = np.rint(values / scale) + zero_point
    return numbers


def _on_grid(values: np.ndarray, quantized: Sequence[Quantizer]) -> tuple[np.ndarray, Any] | None:
    """The int8 numbers and quantization parameters that come to exactly these values."""
    if values.ndim < 2 or not values.any():
        return None
    for entry in quantized:
        if entry.kind != "weight" or entry.dtype != "int8":
            continue
        count = len(entry.scale)
        for axis in [0] if count == 1 else [axis for axis, side in enumerate(values.shape) if side == count]:
            along = [count if dimension == axis else 1 for dimension in range(values.ndim)]
            scale = np.asarray(entry.scale, dtype=np.float32).reshape(along)
            zero_point = np.asarray(entry.zero_point, dtype=np.float32).reshape(along)
            numbers = np.rint(values / scale) + zero_point
            inside = (numbers >= entry.low) & (numbers <= entry.high)
            if (inside & ((numbers - zero_point) * scale == values)).all():
                return numbers.astype(np.int8), _quantization(entry, axis)
    return None


def _quantization(entry: Quantizer, axis: int) -> Any:
    parameters = schema.QuantizationParametersT()
    parameters.scale = np.asarray(entry.scale, dtype=np.float32)
    parameters.zeroPoint = np.asarray(entry.zero_point, dtype=np.int64)
    parameters.quantizedDimension = axis
    return parameters


def _users(model: Any, index: int) -> tuple[list[Any], list[Any]]:
    """The operations that look up rows in a tensor, and the others that read it."""
    users = [operator for operator in model.subgraphs[0].operators if index in operator.inputs]
    lookups = [user for user in users if op_of(model, user) == Op.EMBEDDING_LOOKUP]
    return lookups, [user for user in users if user not in lookups]


def _dequantize(model: Any, source: int, target: int) -> Any:
    tensor = model.subgraphs[0].tensors[source]
    per_channel = tensor.quantization is not None and len(tensor.quantization.scale) > 1
    version = DEQUANTIZE_PER_CHANNEL_VERSION if per_channel else DEQUANTIZE_VERSION[tensor.type]
    return operation(model, Op.DEQUANTIZE, version, [source], target)


def _dequantize_constant(model: Any, stored: int, index: int) -> None:
    """A float32 constant becomes what is dequantized from the stored one, right before it is used."""
    graph = model.subgraphs[0]
    graph.tensors[index].buffer = 0
    place = next(place for place, user in enumerate(graph.operators) if index in user.inputs)
    graph.operators.insert(place, _dequantize(model, stored, index))


def _dequantize_rows(model: Any, lookup: Any, stored: int) -> None:
    """Rows are gathered as they are stored, then dequantized.

    The converter flattens the ids for EMBEDDING_LOOKUP and unfolds the rows after it; GATHER needs neither.
    """
    graph, table = model.subgraphs[0], model.subgraphs[0].tensors[stored]
    ids, output = int(lookup.inputs[0]), int(lookup.outputs[0])
    if (unfold := _unfolding(model, ids, output)) is not None:
        ids, output = unfold[0], int(unfold[1].outputs[0])
        graph.operators.remove(unfold[1])
    rows = add_tensor(model, output, table.type, table.quantization)
    gather = operation(model, Op.GATHER, GATHER_VERSION[table.type], [stored, ids], rows)
    gather.builtinOptionsType, gather.builtinOptions = schema.BuiltinOptions.GatherOptions, schema.GatherOptionsT()
    place = graph.operators.index(lookup)
    graph.operators[place : place + 1] = [_dequantize(model, rows, output)]
    if ids in graph.inputs:
        place = 0  # what cannot be delegated comes first, so that all the rest is one piece
    graph.operators.insert(place, gather)


def _unfolding(model: Any, ids: int, output: int) -> tuple[int, Any] | None:
    """The ids before they were flattened, and the RESHAPE that gives the rows their shape."""
    graph = model.subgraphs[0]
    before = next((one for one in graph.operators if ids in one.outputs), None)
    after = [one for one in graph.operators if output in one.inputs]
    if (
        before is None
        or output in graph.outputs
        or [op_of(model, one) for one in (before, *after)] != [Op.RESHAPE, Op.RESHAPE]
    ):
        return None
    source, rows = (graph.tensors[index].shape for index in (before.inputs[0], after[0].outputs[0]))
    return (int(before.inputs[0]), after[0]) if list(rows[:-1]) == list(source) else None
