"""An exported file as a graph, whatever its format: what read-back, coverage and cost are computed from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

UNSIGNED_OFFSET = 128
"""An int8 number and the uint8 number that stands for the same real value differ by this much."""


@dataclass(frozen=True)
class FileTensor:
    """One tensor of a file. constant: its values, or None. scale, zero_point: empty where it is not quantized.

    bounds: the smallest and the largest real value, where the format keeps these and no scale. half: the file holds
    the scale as float16, and `scale` is that number. int4: the file holds the constant two numbers a byte; here they
    are int8.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    constant: np.ndarray | None
    scale: tuple[np.float32, ...] = ()
    zero_point: tuple[int, ...] = ()
    axis: int | None = None
    bounds: tuple[np.float32, np.float32] | None = None
    half: bool = False
    int4: bool = False

    @property
    def bytes(self) -> int:
        count = int(np.prod(self.shape, dtype=np.int64))
        return -(-count // 2) if self.int4 else count * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class FileNode:
    """One operation: its name in the format, and the indices of its tensors.

    weight_axis: the axis along which the format wants the scales of its weight, or None if it does not say.
    """

    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    weight_axis: int | None = None


@dataclass(frozen=True)
class FileGraph:
    """Tensors by index, operations in order, and which tensors the app sees."""

    tensors: tuple[FileTensor, ...]
    nodes: tuple[FileNode, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def check(self) -> None:
        """Raise IndexError if an operation, an input or an output names a tensor that is not there."""
        named = {*self.inputs, *self.outputs}.union(*((*node.inputs, *node.outputs) for node in self.nodes))
        if not all(0 <= index < len(self.tensors) for index in named):
            raise IndexError("a tensor that is not there")

    def describe(self, tensor: FileTensor) -> str:
        """A tensor in words: its name, or the operation around it."""
        if tensor.name:
            return f"'{tensor.name}'"
        for position, node in enumerate(self.nodes):
            if tensor.index in node.outputs:
                return f"the output of {node.op} {position}"
            if tensor.index in node.inputs:
                return f"input {node.inputs.index(tensor.index)} of {node.op} {position}"
        return f"tensor {tensor.index}"


def bytes_moved(graph: FileGraph) -> int:
    """Bytes read and written if every operation reads each input once and writes each output once.

    An upper bound for one inference that keeps nothing in caches: an estimate, not a measurement.
    """
    return sum(graph.tensors[index].bytes for node in graph.nodes for index in (*node.inputs, *node.outputs))


def unpacked(content: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Numbers of 4 bits, two a byte, the first in its lower half, as int8. Raises ValueError for too few or many."""
    halves = np.stack([content & 15, content >> 4], axis=-1).ravel().astype(np.int8)
    count = math.prod(shape)
    if len(halves) != count + count % 2:
        raise ValueError(f"{len(halves)} numbers of 4 bits for {count}")
    numbers: np.ndarray = ((halves[:count] ^ 8) - 8).reshape(shape)
    return numbers


def stored_weights(graph: FileGraph) -> dict[str, int]:
    """How many numbers of a file's integer constants are stored in 4 bits, and how many in 8."""
    used = {index for node in graph.nodes for index in node.inputs}
    weights = [one for one in graph.tensors if one.index in used and one.constant is not None and one.dtype == "int8"]
    counts = {"int4": 0, "int8": 0}
    for one in weights:
        counts["int4" if one.int4 else "int8"] += math.prod(one.shape)
    return counts


def layout_changes(graph: FileGraph) -> list[str]:
    """The operations that only move data between layouts, as `position:op`."""
    return [f"{position}:{node.op}" for position, node in enumerate(graph.nodes) if node.op.upper() == "TRANSPOSE"]
