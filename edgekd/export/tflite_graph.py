"""Changing the main graph of a .tflite file: constants and operations in, what nothing reads out."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekd.export.tflite_pack import pack, slim

TYPES = {"float16": schema.TensorType.FLOAT16, "int8": schema.TensorType.INT8}


def read(content: bytes) -> Any:
    """The file as schema objects."""
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))


def float_constants(model: Any) -> Iterator[tuple[int, np.ndarray]]:
    """Tensor index and values of the float32 constants that the graph has now and stores densely."""
    for index, tensor in enumerate(list(model.subgraphs[0].tensors)):
        data = None if tensor.sparsity else model.buffers[tensor.buffer].data
        if tensor.type == schema.TensorType.FLOAT32 and data is not None and len(data) and tensor.shape is not None:
            yield index, np.asarray(data, dtype=np.uint8).view(np.float32).reshape(tensor.shape)


def op_of(model: Any, operator: Any) -> int:
    code = model.operatorCodes[operator.opcodeIndex]
    return max(int(code.builtinCode), int(code.deprecatedBuiltinCode))


def opcode(model: Any, op: int, version: int) -> int:
    """The index of an operation's code, added if it is not there."""
    for position, known in enumerate(model.operatorCodes):
        if (known.builtinCode, known.version) == (op, version):
            return position
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = op
    code.version = version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def operation(model: Any, op: int, version: int, inputs: Sequence[int], output: int) -> Any:
    """A new operation; where it goes among the others is the caller's."""
    operator = schema.OperatorT()
    operator.opcodeIndex = opcode(model, op, version)
    operator.inputs, operator.outputs = np.array(inputs, dtype=np.int32), np.array([output], dtype=np.int32)
    return operator


def add_tensor(model: Any, like: int, dtype: int, quantization: Any) -> int:
    """A tensor of another's shape; returns its index."""
    tensors = model.subgraphs[0].tensors
    tensor = copy.copy(tensors[like])
    tensor.type, tensor.quantization, tensor.buffer = dtype, quantization, 0
    tensors.append(tensor)
    return len(tensors) - 1


def add_constant(model: Any, like: int, values: np.ndarray, quantization: Any = None) -> int:
    """A float16 or int8 constant of another tensor's shape; returns its index."""
    index = add_tensor(model, like, TYPES[values.dtype.name], quantization)
    set_constant(model, model.subgraphs[0].tensors[index], values)
    return index


def set_constant(model: Any, tensor: Any, values: np.ndarray) -> None:
    """Give a tensor these values."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.tobytes(), dtype=np.uint8)
    tensor.buffer = len(model.buffers)
    model.buffers.append(buffer)


def written(model: Any) -> bytes:
    """The model as a file, without the operations, tensors and data that nothing reads."""
    _drop_tensors(model, _drop_operators(model))
    _drop_codes(model)
    return slim(pack(model))


def _drop_operators(model: Any) -> set[int]:
    """Returns the tensors that are needed."""
    graph = model.subgraphs[0]
    needed, operators = {*map(int, graph.inputs), *map(int, graph.outputs)}, []
    for operator in reversed(graph.operators):
        outputs = {int(index) for index in operator.outputs}
        if not outputs or needed & outputs:
            needed |= outputs | {int(index) for index in operator.inputs}
            operators.append(operator)
    graph.operators = operators[::-1]
    return needed


def _drop_tensors(model: Any, needed: set[int]) -> None:
    graph = model.subgraphs[0]
    kept = [index for index in range(len(graph.tensors)) if index in needed]
    moved = {-1: -1, **{index: position for position, index in enumerate(kept)}}
    graph.tensors = [graph.tensors[index] for index in kept]
    for owner in (graph, *graph.operators):
        owner.inputs, owner.outputs = (
            np.array([moved[int(index)] for index in indices], dtype=np.int32)
            for indices in (owner.inputs, owner.outputs)
        )
    for signature in model.signatureDefs or []:
        for entry in (*signature.inputs, *signature.outputs):
            entry.tensorIndex = moved[int(entry.tensorIndex)]


def _drop_codes(model: Any) -> None:
    operators = [operator for graph in model.subgraphs for operator in graph.operators]
    kept = sorted({operator.opcodeIndex for operator in operators})
    model.operatorCodes = [model.operatorCodes[code] for code in kept]
    for operator in operators:
        operator.opcodeIndex = kept.index(operator.opcodeIndex)
