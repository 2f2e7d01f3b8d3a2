"""Reading an .onnx file with the protobuf schema, independently of any runtime."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.errors import UsageError
from edgekd.readers.graph import UNSIGNED_OFFSET, FileGraph, FileNode, FileTensor, unpacked

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def check_file(file: Path) -> None:
    """Refuse what is not an ONNX model, or one whose data lies elsewhere, before native code sees it."""
    read_model(file)


def read_model(file: Path) -> Any:
    """The ModelProto of an .onnx file. Raises UsageError if it is not one, or if its data lies in other files."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(file), load_external_data=False)
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror})") from error
    except (DecodeError, ValueError) as error:
        raise UsageError(f"{file}: not an ONNX model") from error
    if not model.graph.node or not model.graph.output:
        raise UsageError(f"{file}: not an ONNX model (no graph in it)")
    outside = next((tensor.name for tensor in _constants(model.graph) if tensor.external_data), None)
    if outside is not None:
        raise UsageError(f"{file}: '{outside}' lies in another file; save the model with its data inside")
    return model


def read_graph(file: Path) -> FileGraph:
    """The graph of an ONNX file. A quantized tensor has the scale and zero point of the operation that makes or takes
    it; zero points of uint8 tensors are given as those of int8.

    Raises UsageError if the file is not an ONNX model or is damaged.
    """
    content = read_model(file)
    import onnx
    from onnx import numpy_helper

    try:
        int4 = _unpack(content.graph)
        model = onnx.shape_inference.infer_shapes(content)
        graph = model.graph
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        types = {entry.name: _type(entry) for entry in (*graph.input, *graph.value_info, *graph.output)}
        names = [*types, *(name for name in constants if name not in types)]
        names += [name for node in graph.node for name in (*node.input, *node.output) if name]
        made = {
            *constants,
            *(entry.name for entry in graph.input),
            *(name for one in graph.node for name in one.output),
        }
        if absent := {name for node in graph.node for name in node.input if name} - made:
            raise IndexError(f"{min(absent)} is not there")
        positions = {name: position for position, name in enumerate(dict.fromkeys(names))}
        quantized = _quantized(graph, constants)
        tensors = tuple(
            replace(_tensor(name, position, types, constants, quantized), int4=name in int4)
            for name, position in positions.items()
        )
        axes = _weight_axes(graph)
        nodes = tuple(_node(node, positions, axes) for node in graph.node)
        inputs = tuple(positions[entry.name] for entry in graph.input if entry.name not in constants)
        result = FileGraph(tensors, nodes, inputs, tuple(positions[entry.name] for entry in graph.output))
        result.check()
    except Exception as error:  # protobuf and onnx fail in many ways on a damaged file
        raise UsageError(f"{file}: damaged ONNX file ({type(error).__name__} while reading it)") from error
    return result


def _constants(graph: Any) -> Iterator[Any]:
    """Every tensor that a graph holds, in its nodes and in the graphs inside of them as well."""
    yield from graph.initializer
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for inner in (attribute.g, *attribute.graphs):
            yield from _constants(inner)


def _unpack(graph: Any) -> set[str]:
    """Make constants of 4 bits int8 ones, without the Cast to int8 behind them; returns their names."""
    from onnx import TensorProto, numpy_helper

    names = set()
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.INT4:
            continue
        content = np.frombuffer(tensor.raw_data or bytes(tensor.int32_data), dtype=np.uint8)
        tensor.CopyFrom(numpy_helper.from_array(unpacked(content, tensor.dims), tensor.name))
        names.add(tensor.name)
    casts = [
        node
        for node in graph.node
        if node.op_type == "Cast"
        and node.input[0] in names
        and any(attribute.name == "to" and attribute.i == TensorProto.INT8 for attribute in node.attribute)
    ]
    given = {cast.output[0]: cast.input[0] for cast in casts}
    for cast in casts:
        graph.node.remove(cast)
    for node in graph.node:
        node.input[:] = [given.get(name, name) for name in node.input]
    return names


Quantization = tuple[tuple[np.float32, ...], tuple[int, ...], int | None]


def _quantized(graph: Any, constants: dict[str, np.ndarray]) -> dict[str, Quantization]:
    """Scale, zero point and axis of each tensor that a QuantizeLinear makes or a DequantizeLinear takes."""
    found: dict[str, Quantization] = {}
    for node in graph.node:
        if node.op_type not in (QUANTIZE, DEQUANTIZE):
            continue
        name = node.output[0] if node.op_type == QUANTIZE else node.input[0]
        scale = np.atleast_1d(constants[node.input[1]]).astype(np.float32)
        zero = constants.get(node.input[2]) if len(node.input) > 2 else None
        zero_point = np.zeros(scale.shape, dtype=np.uint8 if zero is None else zero.dtype) if zero is None else zero
        shift = UNSIGNED_OFFSET if zero_point.dtype == np.uint8 else 0
        numbers = tuple(int(one) - shift for one in np.broadcast_to(np.atleast_1d(zero_point), scale.shape))
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        found[name] = (tuple(scale), numbers, int(axis) if len(scale) > 1 else None)
    return found


def _weight_axes(graph: Any) -> dict[str, int]:
    """By the output of the DequantizeLinear before it: the axis of a layer's outputs in its weight."""
    axes = {}
    for node in graph.node:
        if node.op_type == "MatMul":
            axes[node.input[1]] = 1
        elif node.op_type == "Gemm":
            turned = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            axes[node.input[1]] = 0 if turned else 1
        elif node.op_type in ("Conv", "ConvTranspose"):
            axes[node.input[1]] = 0 if node.op_type == "Conv" else 1
    return axes


def _node(node: Any, positions: dict[str, int], axes: dict[str, int]) -> FileNode:
    """Scales and zero points are not tensors of the graph here: they belong to what they scale."""
    inputs = node.input[:1] if node.op_type in (QUANTIZE, DEQUANTIZE) else node.input
    return FileNode(
        node.op_type,
        tuple(positions[name] for name in inputs if name),
        tuple(positions[name] for name in node.output if name),
        axes.get(node.output[0]) if node.op_type == DEQUANTIZE else None,
    )


def _tensor(
    name: str,
    position: int,
    types: dict[str, tuple[tuple[int, ...], str]],
    constants: dict[str, np.ndarray],
    quantized: dict[str, Quantization],
) -> FileTensor:
    constant = constants.get(name)
    shape, dtype = (constant.shape, constant.dtype.name) if constant is not None else types.get(name, ((), "float32"))
    scale, zero_point, axis = quantized.get(name, ((), (), None))
    return FileTensor(position, name, shape, dtype, constant, scale, zero_point, axis)


def _type(entry: Any) -> tuple[tuple[int, ...], str]:
    from onnx import helper

    tensor = entry.type.tensor_type
    shape = tuple(int(side.dim_value) or 1 for side in tensor.shape.dim)
    return shape, np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
