"""Reading a .tflite file with the flatbuffer schema, independently of any runtime."""

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.errors import UsageError
from edgekd.readers.graph import FileGraph, FileNode, FileTensor, unpacked

IDENTIFIER = b"TFL3"
WEIGHT_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0, "TRANSPOSE_CONV": 0}
"""Where the TFLite 8-bit quantization specification wants per-channel scales."""
LARGEST = 2**31
"""Bytes; what a file can hold, and so a constant."""


def check_file(file: Path) -> None:
    """Refuse what is not a TFLite file before native code sees it."""
    try:
        with file.open("rb") as stream:
            head = stream.read(8)
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror})") from error
    if head[4:8] != IDENTIFIER:
        raise UsageError(f"{file}: not a TFLite model (no {IDENTIFIER.decode()} mark at its start)")


def read_graph(file: Path) -> FileGraph:
    """The main subgraph of a TFLite file. Raises UsageError if the file is not one or is damaged."""
    check_file(file)
    from ai_edge_litert import schema_py_generated as schema

    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(file.read_bytes(), 0))
        subgraph = model.subgraphs[0]
        dtypes = _names(schema.TensorType)
        ops = _names(schema.BuiltinOperator)
        tensors = tuple(_tensor(index, tensor, model, dtypes) for index, tensor in enumerate(subgraph.tensors))
        nodes = tuple(_node(operator, model, ops) for operator in subgraph.operators)
        graph = FileGraph(tensors, nodes, tuple(map(int, subgraph.inputs)), tuple(map(int, subgraph.outputs)))
        graph.check()
        return graph
    except (struct.error, IndexError, TypeError, ValueError, AttributeError, KeyError, MemoryError) as error:
        raise UsageError(f"{file}: damaged TFLite file ({type(error).__name__} while reading it)") from error


def _node(operator: Any, model: Any, ops: dict[int, str]) -> FileNode:
    op = _op_name(model.operatorCodes[operator.opcodeIndex], ops)
    inputs = tuple(int(index) for index in operator.inputs if index >= 0)
    return FileNode(op, inputs, tuple(int(index) for index in operator.outputs), WEIGHT_AXIS.get(op))


def _tensor(index: int, tensor: Any, model: Any, dtypes: dict[int, str]) -> FileTensor:
    dtype = dtypes[tensor.type].lower()
    shape = tuple(int(side) for side in tensor.shape) if tensor.shape is not None else ()
    data = model.buffers[tensor.buffer].data
    constant, int4 = None, dtype == "int4"
    dtype = "int8" if int4 else dtype
    if data is not None and len(data):
        content = np.asarray(data, dtype=np.uint8)
        stored = unpacked(content, shape) if int4 else np.frombuffer(content.tobytes(), dtype=dtype)
        constant = stored.reshape(shape) if tensor.sparsity is None else _dense(stored, shape, tensor.sparsity)
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None:
        return FileTensor(index, _text(tensor.name), shape, dtype, constant, int4=int4)
    scale = tuple(np.asarray(quantization.scale, dtype=np.float32))
    zero_point = tuple(int(zero) for zero in quantization.zeroPoint)
    axis = int(quantization.quantizedDimension) if len(scale) > 1 else None
    return FileTensor(index, _text(tensor.name), shape, dtype, constant, scale, zero_point, axis, int4=int4)


def _dense(stored: np.ndarray, shape: tuple[int, ...], sparsity: Any) -> np.ndarray:
    """A constant whose last dimension is stored in compressed rows; raises ValueError for any other sparsity."""
    *outer, last = sparsity.dimMetadata
    blocks = sparsity.blockMap is not None and len(sparsity.blockMap)
    if blocks or [*sparsity.traversalOrder] != [*range(len(shape))] or not last.format or any(d.format for d in outer):
        raise ValueError("a sparsity other than rows")
    if math.prod(shape) * stored.itemsize > LARGEST:
        raise ValueError("a constant too large for a file")
    lengths = np.diff(np.asarray(last.arraySegments.values, dtype=np.int64))
    dense = np.zeros((len(lengths), shape[-1]), stored.dtype)
    dense[np.repeat(np.arange(len(lengths)), lengths), last.arrayIndices.values] = stored
    return dense.reshape(shape)


def _op_name(code: Any, ops: dict[int, str]) -> str:
    return _text(code.customCode) if code.customCode else ops[max(code.builtinCode, code.deprecatedBuiltinCode)]


def _names(enumeration: type) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
