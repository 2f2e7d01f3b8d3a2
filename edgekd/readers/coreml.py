"""Reading an .mlpackage from its protobuf and its weight file, independently of Core ML's converter and runtime."""

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.errors import UsageError
from edgekd.quiet import quiet
from edgekd.readers.graph import FileGraph, FileNode, FileTensor

QUANTIZE, DEQUANTIZE, CONSTEXPR = "quantize", "dequantize", "constexpr_affine_dequantize"
CLASSIFY = "classify"
DTYPES = {
    "FLOAT16": "float16", "FLOAT32": "float32", "BOOL": "bool", "INT8": "int8", "UINT8": "uint8", "INT16": "int16",
    "UINT16": "uint16", "INT32": "int32", "INT64": "int64",
}  # fmt: skip
BLOB_DTYPES = {1: "float16", 2: "float32", 3: "uint8", 4: "int8", 6: "int16", 7: "uint16", 14: "int32"}
"""The weight file's own numbers for dtypes."""
BLOB_HEADER, BLOB_METADATA = struct.Struct("<II"), struct.Struct("<IIQQ")
BLOB_VERSION, BLOB_SENTINEL, BLOB_ALIGNMENT = 2, 0xDEADBEEF, 64
WEIGHTS_PREFIX = "@model_path/"
UNSIGNED_OFFSET = 128
"""An int8 number and the uint8 number that stands for the same real value differ by this much."""
LARGEST_MANIFEST = 1 << 20

OPERANDS = ("x", "y", "a", "b", "values", "indices", "weight", "bias", "mean", "variance", "gamma", "beta")
"""Parameters that take data, in the order of a node's inputs; a constant elsewhere is a setting of the operation."""

Constant = np.ndarray | str | tuple[str, ...]


@dataclass(frozen=True)
class Value:
    """A tensor of a program by its name."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Op:
    """An operation of a program. inputs: names of values and constants by parameter, several where it takes a list."""

    kind: str
    name: str
    inputs: Mapping[str, tuple[str, ...]]
    outputs: tuple[Value, ...]

    @property
    def computed(self) -> bool:
        """Does it run with every inference? What only unpacks a constant does not."""
        return not self.kind.startswith("constexpr")


@dataclass(frozen=True)
class Program:
    """The main function of a package, its operations in order.

    outputs: of a classifier, the probabilities that its answer is made from. image: the input that the app hands over
    as an image, or None. labels: the class names of a classifier in the order of its probabilities.
    """

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    ops: tuple[Op, ...]
    constants: Mapping[str, Constant]
    image: str | None
    labels: tuple[str, ...]
    metadata: Mapping[str, str]


def model_file(file: Path) -> Path:
    """The specification in a package, found by its manifest. Raises UsageError if this is no package."""
    manifest = file / "Manifest.json"
    try:
        if not file.is_dir():
            raise UsageError(f"{file}: not a Core ML package, which is a folder")
        if manifest.stat().st_size > LARGEST_MANIFEST:
            raise UsageError(f"{manifest}: larger than a manifest can be")
        document = json.loads(manifest.read_bytes())
        path = document["itemInfoEntries"][document["rootModelIdentifier"]]["path"]
        found = _inside(file, file / "Data" / path)
        if not found.is_file():
            raise UsageError(f"{file}: its model, {path}, is not in it")
    except OSError as error:
        raise UsageError(f"{file}: not a Core ML package (Manifest.json: {error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{file}: not a Core ML package (Manifest.json names no model)") from error
    return found


def check_file(file: Path) -> None:
    """Refuse what is not a package with an ML program in it, before native code sees it."""
    with model_file(file).open("rb") as stream:
        if stream.read(1) != b"\x08":
            raise UsageError(f"{file}: not a Core ML package (its model does not start with a version)")


def read_program(file: Path) -> Program:
    """The program of a package, constants included.

    Raises UsageError if the file is not a package, is damaged, or holds something else than one function of fixed
    shapes.
    """
    specification = model_file(file)
    with quiet():
        from coremltools.proto import Model_pb2
    from google.protobuf.message import DecodeError

    try:
        model = Model_pb2.Model.FromString(specification.read_bytes())
        if model.WhichOneof("Type") != "mlProgram":
            raise UsageError(f"{file}: not an ML program; edgekd reads no older kind of Core ML model")
        return _Reader(file, specification.parent, model).program()
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror})") from error
    except (DecodeError, ValueError, KeyError, IndexError, TypeError, OverflowError, struct.error) as error:
        raise UsageError(f"{file}: damaged Core ML package ({type(error).__name__} while reading it)") from error


def read_graph(file: Path) -> FileGraph:
    """The graph of a package. A quantized tensor has the scale and zero point of the operation that makes or takes it;
    zero points of uint8 tensors are given as those of int8.

    Raises UsageError if the file is not a package or is damaged.
    """
    return graph_of(read_program(file), file)


def graph_of(program: Program, file: Path) -> FileGraph:
    """The same for a program that is read already; `file` is for error messages."""
    try:
        graph = _graph(program)
        graph.check()
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
        raise UsageError(f"{file}: damaged Core ML package ({type(error).__name__} while reading it)") from error
    return graph


def _inside(package: Path, path: Path) -> Path:
    """A path with all links followed. Raises UsageError if it leaves the package or never ends."""
    try:
        found = path.resolve()
    except RuntimeError as error:
        raise UsageError(f"{package}: not a Core ML package (a link in it leads to itself)") from error
    if not found.is_relative_to(package.resolve()):
        raise UsageError(f"{package}: it points to {path}, outside of itself")
    return found


@dataclass
class _Reader:
    """A parsed specification and the weight files that it names, put together to a program."""

    file: Path
    folder: Path
    model: Any
    weights: dict[str, bytes] = field(default_factory=dict)
    constants: dict[str, Constant] = field(default_factory=dict)
    types: dict[str, Value] = field(default_factory=dict)

    def program(self) -> Program:
        functions = self.model.mlProgram.functions
        if list(functions) != ["main"]:
            raise UsageError(f"{self.file}: {len(functions)} functions in it; edgekd reads one, called main")
        function = functions["main"]
        block = dict(function.block_specializations)[function.opset]
        inputs = tuple(self.declared(entry) for entry in function.inputs)
        ops = tuple(op for operation in block.operations if (op := self.op(operation)) is not None)
        classify = next((op for op in ops if op.kind == CLASSIFY), None)
        names = block.outputs if classify is None else classify.inputs["probabilities"]
        labels = () if classify is None else self.constants[classify.inputs["classes"][0]]
        if not isinstance(labels, tuple):
            raise ValueError("labels that are no list of names")
        description = self.model.description
        images = [entry.name for entry in description.input if entry.type.WhichOneof("Type") == "imageType"]
        outputs = tuple(self.types[name] for name in names)
        metadata = dict(description.metadata.userDefined)
        return Program(inputs, outputs, ops, self.constants, next(iter(images), None), labels, metadata)

    def op(self, operation: Any) -> Op | None:
        """An operation, or None for a constant, which is kept by its name."""
        if operation.blocks:
            raise UsageError(f"{self.file}: its {operation.type} has blocks of its own; edgekd reads none such")
        name = _text(operation.attributes["name"]) if "name" in operation.attributes else operation.type
        settings = {key: value for key, value in sorted(operation.attributes.items()) if key != "name"}
        if operation.type == "const":
            self.keep(operation.outputs[0].name, settings["val"])
            return None
        inputs = {key: tuple(self.bound(operation, key)) for key in sorted(operation.inputs)}
        for key, value in settings.items():
            inputs[key] = (self.keep(f"{operation.outputs[0].name}.{key}", value),)
        outputs = [entry for entry in operation.outputs if _is_tensor(entry.type)]
        return Op(operation.type, name, inputs, tuple(self.declared(entry) for entry in outputs))

    def bound(self, operation: Any, key: str) -> Iterator[str]:
        for position, binding in enumerate(operation.inputs[key].arguments):
            if binding.WhichOneof("binding") == "value":
                yield self.keep(f"{operation.outputs[0].name}.{key}.{position}", binding.value)
            elif binding.name in self.types or binding.name in self.constants:
                yield binding.name
            else:
                raise KeyError(binding.name)

    def declared(self, entry: Any) -> Value:
        tensor = entry.type.tensorType
        value = Value(entry.name, _dtype(tensor), _shape(tensor))
        self.check_new(entry.name)
        self.types[entry.name] = value
        return value

    def keep(self, name: str, value: Any) -> str:
        self.check_new(name)
        self.constants[name] = self.constant(value)
        return name

    def check_new(self, name: str) -> None:
        if name in self.types or name in self.constants:
            raise ValueError(f"{name} is there twice")

    def constant(self, value: Any) -> Constant:
        if value.WhichOneof("value") == "blobFileValue":
            tensor = value.type.tensorType
            return self.blob(value.blobFileValue.fileName, value.blobFileValue.offset, _dtype(tensor), _shape(tensor))
        if value.immediateValue.WhichOneof("value") == "list":
            return tuple(_text(one) for one in value.immediateValue.list.values)
        if _is_string(value.type):
            return _text(value)
        tensor = value.type.tensorType
        return _immediate(value.immediateValue.tensor, _dtype(tensor), _shape(tensor))

    def blob(self, name: str, offset: int, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        """A tensor of a weight file: 64 bytes of metadata at `offset`, and the data behind them."""
        content = self.weight_file(name)
        sentinel, kind, size, start = BLOB_METADATA.unpack_from(content, offset)
        count = math.prod(shape)
        if sentinel != BLOB_SENTINEL or BLOB_DTYPES[kind] != dtype or size != count * np.dtype(dtype).itemsize:
            raise ValueError("metadata that does not fit the tensor")
        if offset % BLOB_ALIGNMENT or start != offset + BLOB_ALIGNMENT or start + size > len(content):
            raise ValueError("a tensor that is not in the weight file")
        return np.frombuffer(content, dtype, count, start).reshape(shape)

    def weight_file(self, name: str) -> bytes:
        if name not in self.weights:
            if not name.startswith(WEIGHTS_PREFIX):
                raise UsageError(f"{self.file}: its weights are at {name!r}, outside of itself")
            path = _inside(self.file, self.folder / name.removeprefix(WEIGHTS_PREFIX))
            if not path.is_file():
                raise UsageError(f"{self.file}: its weights, {name.removeprefix(WEIGHTS_PREFIX)}, are not in it")
            content = path.read_bytes()
            _, version = BLOB_HEADER.unpack_from(content)
            if version != BLOB_VERSION:
                raise ValueError(f"a weight file of version {version}")
            self.weights[name] = content
        return self.weights[name]


def _is_tensor(kind: Any) -> bool:
    return kind.WhichOneof("type") == "tensorType" and not _is_string(kind)


def _is_string(kind: Any) -> bool:
    from coremltools.proto import MIL_pb2

    return bool(kind.WhichOneof("type") == "tensorType" and kind.tensorType.dataType == MIL_pb2.STRING)


def _dtype(tensor: Any) -> str:
    from coremltools.proto import MIL_pb2

    return DTYPES[MIL_pb2.DataType.Name(tensor.dataType)]


def _shape(tensor: Any) -> tuple[int, ...]:
    if any(side.WhichOneof("dimension") != "constant" for side in tensor.dimensions):
        raise ValueError("a shape that is not fixed")
    return tuple(int(side.constant.size) for side in tensor.dimensions)


def _text(value: Any) -> str:
    (text,) = value.immediateValue.tensor.strings.values
    return str(text)


def _immediate(tensor: Any, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """A constant that lies in the specification itself: small types as bytes, the others as numbers."""
    kind = tensor.WhichOneof("value")
    values = getattr(tensor, kind).values
    array = np.frombuffer(values, dtype) if kind == "bytes" else np.array(values, dtype=dtype)
    if array.size != math.prod(shape):
        raise ValueError(f"{array.size} values for a tensor of shape {shape}")
    return array.reshape(shape)


@dataclass(frozen=True)
class _Quantization:
    """What an operation says about a quantized tensor. half: the scales are float16 in the file."""

    scale: tuple[np.float32, ...]
    zero_point: tuple[int, ...]
    axis: int | None
    half: bool


def _graph(program: Program) -> FileGraph:
    used = [name for op in program.ops for name in _operands(op, program)]
    values = {value.name: value for value in (*program.inputs, *(one for op in program.ops for one in op.outputs))}
    names = list(dict.fromkeys([*(value.name for value in program.inputs), *used, *values]))
    positions = {name: position for position, name in enumerate(names)}
    quantized = _quantized(program, values)
    tensors = tuple(_tensor(name, positions[name], program, values, quantized) for name in names)
    nodes = tuple(
        FileNode(
            op.kind,
            tuple(positions[name] for name in _operands(op, program)),
            tuple(positions[value.name] for value in op.outputs),
        )
        for op in program.ops
    )
    inputs = tuple(positions[value.name] for value in program.inputs)
    return FileGraph(tensors, nodes, inputs, tuple(positions[value.name] for value in program.outputs))


def _operands(op: Op, program: Program) -> list[str]:
    """The tensors that an operation reads. Scales and zero points are none: they belong to what they scale."""
    if op.kind == CONSTEXPR:
        return list(op.inputs["quantized_data"])
    keys = sorted(op.inputs, key=lambda key: OPERANDS.index(key) if key in OPERANDS else -1)
    named = [(key, name) for key in keys for name in op.inputs[key]]
    return [name for key, name in named if name not in program.constants or key in OPERANDS]


def _quantized(program: Program, values: Mapping[str, Value]) -> dict[str, _Quantization]:
    """By tensor. A dequantize that contradicts the quantize before it leaves its own numbers at its output, where the
    read-back sees them.
    """
    found: dict[str, _Quantization] = {}
    for op in program.ops:
        if op.kind == QUANTIZE:
            output = op.outputs[0]
            found[output.name] = _quantization(op, program, output.dtype)
        elif op.kind == DEQUANTIZE:
            source = op.inputs["input"][0]
            quantization = _quantization(op, program, values[source].dtype)
            if found.setdefault(source, quantization) != quantization:
                found[op.outputs[0].name] = quantization
        elif op.kind == CONSTEXPR:
            data = op.inputs["quantized_data"][0]
            found[data] = _quantization(op, program, _array(program, data).dtype.name)
    return found


def _quantization(op: Op, program: Program, dtype: str) -> _Quantization:
    scales = _array(program, op.inputs["scale"][0])
    scale = np.atleast_1d(scales).astype(np.float32)
    zero = _array(program, op.inputs["zero_point"][0]) if "zero_point" in op.inputs else np.zeros((), dtype)
    shift = UNSIGNED_OFFSET if dtype == "uint8" else 0
    zero_point = tuple(int(one) - shift for one in np.broadcast_to(np.atleast_1d(zero), scale.shape))
    axis = int(_array(program, op.inputs["axis"][0])) if "axis" in op.inputs and scales.ndim else None
    return _Quantization(tuple(scale), zero_point, axis, scales.dtype == np.float16)


def _array(program: Program, name: str) -> np.ndarray:
    constant = program.constants[name]
    if not isinstance(constant, np.ndarray):
        raise TypeError(f"{name} is no tensor")
    return constant


def _tensor(
    name: str,
    position: int,
    program: Program,
    values: Mapping[str, Value],
    quantized: Mapping[str, _Quantization],
) -> FileTensor:
    constant = _array(program, name) if name in program.constants else None
    shape, dtype = (
        (values[name].shape, values[name].dtype) if constant is None else (constant.shape, constant.dtype.name)
    )
    if name not in quantized:
        return FileTensor(position, name, shape, dtype, constant)
    numbers = quantized[name]
    return FileTensor(
        position, name, shape, dtype, constant, numbers.scale, numbers.zero_point, numbers.axis, half=numbers.half
    )
