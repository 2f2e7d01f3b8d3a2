"""Reading an OpenVINO IR from its XML and its binary, independently of the runtime."""

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgekd.errors import UsageError
from edgekd.readers.graph import UNSIGNED_OFFSET, FileGraph, FileNode, FileTensor, unpacked

INT4 = "int4"
DTYPES = {
    "FP32": "float32", "FP16": "float16", "FP64": "float64", "I8": "int8", "U8": "uint8", "I32": "int32",
    "I64": "int64", "BOOL": "bool", "I4": INT4,
}  # fmt: skip
DEQUANTIZING = ("Convert", "Subtract", "Multiply")
LARGEST_XML = 1 << 28

Port = tuple[str, str]


@dataclass(frozen=True)
class _Layer:
    """A layer of the XML: its inputs as the ports that feed them, its outputs as (port, dtype, shape)."""

    key: str
    name: str
    type: str
    data: dict[str, str]
    inputs: tuple[Port, ...]
    outputs: tuple[tuple[str, str, tuple[int, ...]], ...]


def read_document(file: Path) -> ElementTree.Element:
    """The XML of an IR whose .bin is there. Raises UsageError if it is not one."""
    try:
        if file.stat().st_size > LARGEST_XML:
            raise UsageError(f"{file}: larger than an OpenVINO model's XML can be")
        root = ElementTree.fromstring(file.read_bytes())
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror})") from error
    except ElementTree.ParseError as error:
        raise UsageError(f"{file}: not an OpenVINO model ({error})") from error
    if root.tag != "net" or root.find("layers") is None:
        raise UsageError(f"{file}: not an OpenVINO model (no layers in it)")
    if not file.with_suffix(".bin").is_file():
        raise UsageError(f"{file}: its weights, {file.with_suffix('.bin').name}, are not beside it")
    return root


def check_file(file: Path) -> None:
    """Refuse what is not an IR with its weights beside it, before native code sees it."""
    read_document(file)


def read_graph(file: Path) -> FileGraph:
    """The graph of an IR. A FakeQuantize keeps a range: its output has it as `bounds`, and the scale it comes to.

    Raises UsageError if the file is not an IR or is damaged.
    """
    root = read_document(file)
    try:
        layers = _without_unpacking(_layers(root))
        binary = np.frombuffer(file.with_suffix(".bin").read_bytes(), dtype=np.uint8)
        graph = _Reader(layers, binary).graph()
        graph.check()
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, StopIteration) as error:
        raise UsageError(f"{file}: damaged OpenVINO model ({type(error).__name__} while reading it)") from error
    return graph


def _layers(root: ElementTree.Element) -> list[_Layer]:
    feeds: dict[Port, Port] = {}
    for edge in root.iterfind("edges/edge"):
        source = (edge.attrib["from-layer"], edge.attrib["from-port"])
        feeds[edge.attrib["to-layer"], edge.attrib["to-port"]] = source
    found = []
    for layer in root.iterfind("layers/layer"):
        key, data = layer.attrib["id"], layer.find("data")
        outputs = tuple(
            (port.attrib["id"], DTYPES.get(port.attrib["precision"], "float32"), _shape(port))
            for port in layer.iterfind("output/port")
        )
        found.append(
            _Layer(
                key,
                layer.attrib["name"],
                layer.attrib["type"],
                {} if data is None else dict(data.attrib),
                tuple(feeds[key, port.attrib["id"]] for port in layer.iterfind("input/port")),
                outputs,
            )
        )
    return found


def _without_unpacking(layers: list[_Layer]) -> list[_Layer]:
    """What a Convert to int8 makes of a constant of 4 bits is that constant here."""
    given: dict[Port, Port] = {}
    packed = {layer.key for layer in layers if layer.type == "Const" and layer.outputs[0][1] == INT4}
    for layer in layers:
        if layer.type == "Convert" and layer.inputs[0][0] in packed and layer.outputs[0][1] == "int8":
            given[layer.key, layer.outputs[0][0]] = layer.inputs[0]
    left_out = {key for key, _ in given}
    return [
        replace(layer, inputs=tuple(given.get(port, port) for port in layer.inputs))
        for layer in layers
        if layer.key not in left_out
    ]


def _shape(port: ElementTree.Element) -> tuple[int, ...]:
    return tuple(int(dimension.text or 1) for dimension in port.iterfind("dim"))


class _Reader:
    """Layers and a binary, put together to tensors with scales."""

    def __init__(self, layers: list[_Layer], binary: np.ndarray) -> None:
        self.layers, self.binary = layers, binary
        self.by_key = {layer.key: layer for layer in layers}
        ports = [(layer.key, port) for layer in layers for port, _, _ in layer.outputs]
        self.positions = {port: position for position, port in enumerate(ports)}
        self.numbers: set[str] = set()
        """The layers that hold or reshape a scale, a zero point or the end of a range."""
        self.users: dict[Port, list[_Layer]] = {port: [] for port in ports}
        for layer in layers:
            for port in layer.inputs:
                self.users[port].append(layer)

    def graph(self) -> FileGraph:
        tensors = tuple(
            self.tensor(layer, port, dtype, shape) for layer in self.layers for port, dtype, shape in layer.outputs
        )
        apart = {"Const", "Parameter", "Result"}
        working = [layer for layer in self.layers if layer.type not in apart and layer.key not in self.numbers]
        nodes = tuple(self.node(layer) for layer in working)
        inputs = [self.positions[layer.key, layer.outputs[0][0]] for layer in self.layers if layer.type == "Parameter"]
        outputs = [self.positions[layer.inputs[0]] for layer in self.layers if layer.type == "Result"]
        return FileGraph(tensors, nodes, tuple(inputs), tuple(outputs))

    def node(self, layer: _Layer) -> FileNode:
        """Ranges, scales and zero points belong to what they scale; they are not inputs of the graph here."""
        inputs = [port for port in layer.inputs if port[0] not in self.numbers]
        outputs = tuple(self.positions[layer.key, port] for port, _, _ in layer.outputs)
        return FileNode(layer.type, tuple(self.positions[port] for port in inputs), outputs)

    def tensor(self, layer: _Layer, port: str, dtype: str, shape: tuple[int, ...]) -> FileTensor:
        position = self.positions[layer.key, port]
        constant = self.constant(layer, dtype, shape) if layer.type == "Const" else None
        if layer.type == "FakeQuantize":
            _, _, low, high = (self.value(port)[0] for port in layer.inputs[1:])
            scale = np.float32((high - low) / (int(layer.data["levels"]) - 1))
            zero = int(np.round(-low / scale)) - UNSIGNED_OFFSET
            return FileTensor(position, layer.name, shape, dtype, None, (scale,), (zero,), bounds=(low, high))
        int4, dtype = dtype == INT4, "int8" if dtype == INT4 else dtype
        scales, zero_point = self.scales((layer.key, port)) if dtype in ("int8", "uint8") else ((), 0)
        axis = next(side for side, count in enumerate(shape) if count == len(scales)) if len(scales) > 1 else None
        zero_points = (zero_point,) * len(scales)
        return FileTensor(position, layer.name, shape, dtype, constant, scales, zero_points, axis, int4=int4)

    def scales(self, port: Port) -> tuple[tuple[np.float32, ...], int]:
        """Follow an integer tensor through Convert, Subtract and Multiply: its scales and its int8 zero point."""
        zero_point = -UNSIGNED_OFFSET if self.dtype(port) == "uint8" else 0
        while True:
            chain = (user for user in self.users[port] if user.type in DEQUANTIZING and user.inputs[0] == port)
            user = next(chain, None)
            if user is None:
                return (), 0
            if user.type == "Subtract":
                zero_point += int(self.value(user.inputs[1])[0])
            if user.type == "Multiply":
                return tuple(self.value(user.inputs[1])), zero_point
            port = (user.key, user.outputs[0][0])

    def dtype(self, port: Port) -> str:
        return next(dtype for name, dtype, _ in self.by_key[port[0]].outputs if name == port[1])

    def value(self, port: Port) -> np.ndarray:
        """The constant behind a port, looked up through Convert and Reshape, flat, as float32."""
        layer = self.by_key[port[0]]
        self.numbers.add(layer.key)
        if layer.type in ("Convert", "Reshape"):
            return self.value(layer.inputs[0])
        _, dtype, shape = layer.outputs[0]
        return self.constant(layer, dtype, shape).astype(np.float32).ravel()

    def constant(self, layer: _Layer, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        start, size = int(layer.data["offset"]), int(layer.data["size"])
        if not 0 <= start <= start + size <= len(self.binary):
            raise IndexError(f"{layer.name} is not in the binary")
        content = self.binary[start : start + size]
        if dtype == INT4:
            return unpacked(content, shape)
        return np.frombuffer(content.tobytes(), dtype=dtype).reshape(shape)
