"""Reading an .ort file with the flatbuffer schema of its format, independently of the runtime that loads it."""

import importlib.util
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.errors import UsageError
from edgekd.readers.graph import UNSIGNED_OFFSET, FileGraph, FileNode, FileTensor


def _schema() -> Any:
    """The tables of the format, out of the runtime's wheel; the package that they lie in would import torch."""
    name, runtime = "ort_flatbuffers_py", importlib.util.find_spec("onnxruntime")
    if name not in sys.modules and runtime is not None and runtime.origin is not None:
        place = Path(runtime.origin).parent / "tools" / "ort_format_model" / name
        spec = importlib.util.spec_from_file_location(
            name, place / "__init__.py", submodule_search_locations=[str(place)]
        )
        if spec is not None:
            sys.modules[name] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"{name}.fbs")


IDENTIFIER = b"ORTM"
SCHEMA = _schema()
DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64",
}  # fmt: skip
TENSOR_TYPE, FIXED_SIDE = 1, 1
"""Numbers of the schema: a tensor among the types of a value, a number among the sides of a shape."""


@dataclass(frozen=True)
class Operands:
    """Which inputs of an operation are a tensor, its scale and its zero point, and which are those of its output.

    weight: the input that may have several scales; they run along `axis`, counted from behind if negative, where the
    node's own attributes do not say otherwise.
    """

    inputs: tuple[tuple[int, int, int], ...] = ()
    output: tuple[int, int] | None = None
    weight: int | None = None
    axis: int = 0


UNARY = Operands(((0, 1, 2),), (3, 4))
BINARY = Operands(((0, 1, 2), (3, 4, 5)), (6, 7))
OPERANDS = {
    "QuantizeLinear": Operands(output=(1, 2)),
    "DequantizeLinear": Operands(((0, 1, 2),), weight=0, axis=1),
    "QLinearConv": Operands(((0, 1, 2), (3, 4, 5)), (6, 7), weight=3, axis=0),
    "QLinearMatMul": Operands(((0, 1, 2), (3, 4, 5)), (6, 7), weight=3, axis=-1),
    "QGemm": Operands(((0, 1, 2), (3, 4, 5)), (7, 8), weight=3, axis=-1),
    "MatMulIntegerToFloat": Operands(((0, 2, 4), (1, 3, 5)), weight=1, axis=-1),
    "QLinearAdd": BINARY,
    "QLinearMul": BINARY,
    "QLinearAveragePool": UNARY,
    "QLinearGlobalAveragePool": UNARY,
    "QLinearLeakyRelu": UNARY,
    "QLinearSigmoid": UNARY,
    "QLinearSoftmax": UNARY,
    "QLinearWhere": Operands(((1, 2, 3), (4, 5, 6)), (7, 8)),
}
CONCAT = "QLinearConcat"
"""Scale and zero point of its output come first, then three operands for each of its inputs."""

Type = tuple[tuple[int, ...], str]
"""Shape and dtype."""
Quantization = tuple[tuple[np.float32, ...], tuple[int, ...], int | None]
"""Scales, zero points, axis."""
UNQUANTIZED: Quantization = ((), (), None)


@dataclass(frozen=True)
class _Node:
    """A node of the file. An input that is left out has no name; numbers: its integer attributes."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    numbers: dict[str, int]

    @property
    def operands(self) -> Operands:
        if self.op == CONCAT:
            return Operands(tuple((p, p + 1, p + 2) for p in range(2, len(self.inputs), 3)), (0, 1))
        return OPERANDS.get(self.op, Operands())

    @property
    def tensors(self) -> tuple[str, ...]:
        """Its inputs without scales and zero points: these belong to what they scale."""
        apart = {place for _, *numbers in self.operands.inputs for place in numbers} | {*(self.operands.output or ())}
        return tuple(name for place, name in enumerate(self.inputs) if name and place not in apart)

    def input(self, place: int) -> str:
        return self.inputs[place] if place < len(self.inputs) else ""


def check_file(file: Path) -> None:
    """Refuse what is not an ORT model before native code sees it."""
    read_file(file)


def read_file(file: Path) -> bytes:
    """The content of an .ort file. Raises UsageError if it is not one."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror})") from error
    if content[4:8] != IDENTIFIER:
        raise UsageError(f"{file}: not an ORT model (no {IDENTIFIER.decode()} mark at its start)")
    return content


def read_graph(file: Path) -> FileGraph:
    """The main graph of an .ort file, its nodes in an order in which they can run.

    A quantized tensor has the scale and zero point that go with it into an operation, or that it is made with; zero
    points of uint8 tensors are given as those of int8. The int32 bias of an integer operation has none.

    Raises UsageError if the file is not an ORT model, is damaged, or gives a tensor two different scales.
    """
    content = _Bounded(read_file(file))
    try:
        session = SCHEMA.InferenceSession.InferenceSession.GetRootAs(content, 0)
        int(_text(session.OrtVersion()))  # at the end of the file: what is cut off lacks it
        graph = _graph(session.Model().Graph())
        graph.check()
    except (struct.error, IndexError, TypeError, ValueError, AttributeError, KeyError, MemoryError) as error:
        raise UsageError(f"{file}: damaged ORT model ({type(error).__name__} while reading it)") from error
    except _TwoScalesError as error:
        raise UsageError(f"{file}: damaged ORT model ({error})") from error
    return graph


class _TwoScalesError(Exception):
    """What makes a tensor and what takes it disagree."""


class _Bounded(bytes):
    """Bytes that refuse a slice beyond their end, of which the schema's readers would take what there is."""

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice) and place.stop is not None and place.stop > len(self):
            raise IndexError("beyond the end")
        return super().__getitem__(place)


def _graph(graph: Any) -> FileGraph:
    constants = {_text(one.Name()): _constant(one) for one in _entries(graph, "Initializers")}
    types = {_text(one.Name()): _type(one.Type()) for one in _entries(graph, "NodeArgs")}
    types |= {name: (constant.shape, constant.dtype.name) for name, constant in constants.items()}
    nodes = _ordered([_node(one) for one in _entries(graph, "Nodes")])
    inputs, outputs = ([_text(name) for name in _entries(graph, field)] for field in ("Inputs", "Outputs"))
    quantized = _quantized(nodes, constants, types)
    names = [*inputs, *(name for node in nodes for name in (*node.tensors, *node.outputs) if name), *outputs]
    positions = {name: position for position, name in enumerate(dict.fromkeys(names))}
    return FileGraph(
        tuple(
            _tensor(position, name, types[name], constants.get(name), quantized.get(name, UNQUANTIZED))
            for name, position in positions.items()
        ),
        tuple(
            FileNode(
                node.op,
                tuple(positions[name] for name in node.tensors),
                tuple(positions[name] for name in node.outputs if name),
                _weight_axis(node, types),
            )
            for node in nodes
        ),
        tuple(positions[name] for name in inputs if name not in constants),
        tuple(positions[name] for name in outputs),
    )


def _tensor(position: int, name: str, of: Type, constant: np.ndarray | None, numbers: Quantization) -> FileTensor:
    scale, zero_point, axis = numbers
    return FileTensor(position, name, *of, constant, scale, zero_point, axis)


def _quantized(
    nodes: Iterable[_Node], constants: dict[str, np.ndarray], types: dict[str, Type]
) -> dict[str, Quantization]:
    """Scales, zero points and axis of each tensor that goes into an operation with a scale, or is made with one."""
    found: dict[str, Quantization] = {}
    for node in nodes:
        operands = node.operands
        places = [(node.input(tensor), scale, zero) for tensor, scale, zero in operands.inputs]
        if operands.output is not None:
            places.append((node.outputs[0], *operands.output))
        for name, scale_place, zero_place in places:
            scale = constants.get(node.input(scale_place))
            if scale is None:
                continue
            axis = _weight_axis(node, types) if scale.size > 1 else None
            one = (*_numbers(scale, constants.get(node.input(zero_place)), types[name][1]), axis)
            other = found.setdefault(name, one)
            if one[:2] != other[:2]:
                raise _TwoScalesError(f"'{name}' has {_words(other)} in one place, {_words(one)} in another")
    return found


def _words(numbers: Quantization) -> str:
    return f"a scale of {numbers[0][0]:.9g} and a zero point of {numbers[1][0]}"


def _numbers(scale: np.ndarray, zero: np.ndarray | None, dtype: str) -> tuple[tuple[np.float32, ...], tuple[int, ...]]:
    """The scales of a tensor, and its zero points as those of int8 if it is uint8."""
    scales = scale.astype(np.float32).ravel()
    zeros = np.zeros(1, dtype=np.int64) if zero is None else zero.astype(np.int64).ravel()
    shift = UNSIGNED_OFFSET if dtype == "uint8" else 0
    return tuple(scales), tuple(int(number) - shift for number in np.broadcast_to(zeros, scales.shape))


def _weight_axis(node: _Node, types: dict[str, Type]) -> int | None:
    operands = node.operands
    if operands.weight is None:
        return None
    axis = 0 if node.numbers.get("transB") else node.numbers.get("axis", operands.axis)
    rank = len(types[node.input(operands.weight)][0])
    return axis % rank if rank else None


def _ordered(nodes: list[_Node]) -> list[_Node]:
    """Each node behind those that make its inputs. Raises ValueError if they go in a circle."""
    makers = {name: place for place, node in enumerate(nodes) for name in node.outputs if name}
    before = {place: [makers[name] for name in node.inputs if name in makers] for place, node in enumerate(nodes)}
    return [nodes[place] for place in TopologicalSorter(before).static_order()]


def _entries(owner: Any, field: str) -> Iterator[Any]:
    """The entries of one of the vectors of a table."""
    entry, count = getattr(owner, field), getattr(owner, f"{field}Length")()
    return (entry(place) for place in range(count))


def _node(node: Any) -> _Node:
    inputs, outputs = (tuple(_text(name) for name in _entries(node, field)) for field in ("Inputs", "Outputs"))
    return _Node(
        _text(node.OpType()), inputs, outputs, {_text(one.Name()): int(one.I()) for one in _entries(node, "Attributes")}
    )


def _constant(tensor: Any) -> np.ndarray:
    """The values of a constant; the raw bytes where numpy has no such dtype."""
    content = b"" if tensor.RawDataIsNone() else tensor.RawDataAsNumpy()
    dtype = DTYPES.get(tensor.DataType())
    if dtype is None:
        return np.frombuffer(content, dtype=np.uint8)
    return np.frombuffer(content, dtype=dtype).reshape([int(side) for side in _entries(tensor, "Dims")])


def _type(info: Any) -> Type:
    """Shape and dtype of a tensor, 1 for a side that is not fixed; of what is no tensor, those of a float."""
    if info is None or info.ValueType() != TENSOR_TYPE:
        return (), "float32"
    value = info.Value()
    tensor = SCHEMA.TensorTypeAndShape.TensorTypeAndShape()
    tensor.Init(value.Bytes, value.Pos)
    shape = tensor.Shape()
    sides = () if shape is None else tuple(_entries(shape, "Dim"))
    numbers = tuple(side.Value().DimValue() if side.Value().DimType() == FIXED_SIDE else 1 for side in sides)
    return numbers, DTYPES.get(tensor.ElemType(), "float32")


def _text(value: bytes | None) -> str:
    return (value or b"").decode()
