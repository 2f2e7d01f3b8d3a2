"""Learned scales against the scales in a file, bit for bit and place for place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgekd.compress.quantizers import Quantizer
from edgekd.readers.graph import FileGraph, FileNode, FileTensor

LOOKUP = "GATHER"
UNKNOWN = -1
"""Stands for a quantized tensor of the file that no quantizer of the table fits."""


@dataclass(frozen=True)
class Readback:
    """learned: quantizers in the table. exact: those found in their place, bit for bit. problems: one line each.

    places: tensor of the file -> position in the table, for the activations that were found.
    """

    learned: int
    exact: int
    problems: tuple[str, ...]
    places: Mapping[int, int] = field(default_factory=dict)


def read_back(table: Sequence[Quantizer], graph: FileGraph) -> Readback:
    """Compare both ways: every learned quantizer must be in its place, every quantized tensor must follow from one.

    A quantized activation is placed by what it is computed from: the quantizers of the weights and activations behind
    it, the same in the table as in the file. Operations that only move data keep their input's quantizer; one that has
    learned the very numbers of its input's, as the mean of saturated ReLU6 does, is told from these by nothing, and
    stands for the same. A bias has none of its own: its scale must be its input's times its weight's, rounded once to
    float32. Where activations are float, integers that go in are pixels, and what looks like their scale is the
    normalisation.
    """
    search = _Search(table, graph)
    integers = any(entry.kind == "activation" for entry in table)
    for index in graph.inputs if integers else ():
        search.place_activation(graph.tensors[index], frozenset())
    for node in graph.nodes:
        search.visit(node)
    missing = [entry for position, entry in enumerate(table) if position not in search.tried]
    problems = [*search.problems, *(f"{entry.kind} '{entry.tensor}': not in the file" for entry in missing)]
    return Readback(len(table), len(search.exact), tuple(problems), search.places)


@dataclass
class _Search:
    """The walk through a file: which quantizers each tensor rests on, which were found, what is wrong.

    alike: a quantizer that learned the numbers of the one that it is computed from -> that one.
    """

    table: Sequence[Quantizer]
    graph: FileGraph
    reached: dict[int, frozenset[int]] = field(default_factory=dict)
    alike: dict[int, int] = field(default_factory=dict)
    exact: set[int] = field(default_factory=set)
    places: dict[int, int] = field(default_factory=dict)
    tried: set[int] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def visit(self, node: FileNode) -> None:
        tensors = [self._as_read(self.graph.tensors[index], node) for index in node.inputs]
        weights = [tensor for tensor in tensors if tensor.constant is not None and tensor.dtype == "int8"]
        for weight in weights:
            self.place_weight(weight, node)
        sources = frozenset[int]().union(*(self.reached.get(tensor.index, frozenset()) for tensor in tensors))
        for index in node.outputs:
            output = self.graph.tensors[index]
            only_moved = len(sources) == 1 and (
                any(_same_bits(tensor, output) for tensor in tensors) or self._holds_again(sources, output)
            )
            if only_moved or not output.scale:
                self.reached[index] = sources
                self.learned_again(output, sources)
            else:
                self.place_activation(output, sources)
        self.check_bias(node, tensors)

    def _as_read(self, tensor: FileTensor, node: FileNode) -> FileTensor:
        """A table whose rows are dequantized only after they are looked up has the scale of these rows."""
        if tensor.scale or tensor.constant is None or tensor.dtype != "int8" or node.op.upper() != LOOKUP:
            return tensor
        rows = self.graph.tensors[node.outputs[0]]
        return replace(tensor, scale=rows.scale, zero_point=rows.zero_point, half=rows.half)

    def _holds_again(self, sources: frozenset[int], tensor: FileTensor) -> bool:
        """Is it the quantizer that these numbers have had all the time, written down again?"""
        position = next(iter(sources))
        return position != UNKNOWN and bool(tensor.scale) and _holds(self.table[position], tensor)

    def learned_again(self, tensor: FileTensor, sources: frozenset[int]) -> None:
        """Count the next quantizer that learned the numbers which a tensor has kept."""
        if not tensor.scale or UNKNOWN in sources:
            return
        for position in self.computed_from(sources):
            if position not in self.exact and _holds(self.table[position], tensor):
                self.exact.add(position)
                self.tried.add(position)
                self.alike[position] = next(iter(sources))
                return

    def computed_from(self, sources: frozenset[int]) -> list[int]:
        """The activations of the table that rest on these quantizers."""
        return [
            position
            for position, entry in enumerate(self.table)
            if entry.kind == "activation"
            and _fits(frozenset(self.alike.get(one, one) for one in entry.sources), sources)
        ]

    def place_weight(self, tensor: FileTensor, node: FileNode) -> None:
        if not tensor.scale:
            self.problems.append(f"{self.graph.describe(tensor)}: an int8 constant without a scale")
            return
        fitting = [p for p, entry in enumerate(self.table) if entry.kind == "weight" and _holds(entry, tensor)]
        if tensor.axis is not None and node.weight_axis is not None and tensor.axis != node.weight_axis:
            self.problems.append(
                f"{self.graph.describe(tensor)}: its scales run along axis {tensor.axis}, not {node.weight_axis}"
            )
        elif not fitting:
            closest = self._closest([p for p, entry in enumerate(self.table) if entry.kind == "weight"], tensor)
            self._mismatch(closest, tensor)
        self.exact.update(fitting[:1])
        self.tried.update(fitting[:1])
        self.reached[tensor.index] = frozenset(fitting[:1] or {UNKNOWN})

    def place_activation(self, tensor: FileTensor, sources: frozenset[int]) -> None:
        """Find the quantizer that is computed from the same ones as this tensor; of several, one with its bits."""
        if not tensor.scale:
            self.reached[tensor.index] = frozenset()
            return
        candidates = self.computed_from(sources)
        fitting = [position for position in candidates if _holds(self.table[position], tensor)]
        free = [position for position in fitting if position not in self.exact] or fitting
        if free:
            self.exact.add(free[0])
            self.tried.add(free[0])
            self.places[tensor.index] = free[0]
            self.reached[tensor.index] = frozenset({free[0]})
            return
        closest = self._closest([p for p in candidates if p not in self.exact] or candidates, tensor)
        self._mismatch(closest, tensor)
        self.reached[tensor.index] = frozenset({UNKNOWN if closest is None else closest})

    def check_bias(self, node: FileNode, tensors: Sequence[FileTensor]) -> None:
        biases = [tensor for tensor in tensors[2:] if tensor.dtype == "int32" and tensor.scale]
        if not biases or not tensors[0].scale or not tensors[1].scale:
            return
        bias = biases[0]
        expected = np.float32(tensors[0].scale[0]) * np.asarray(tensors[1].scale, dtype=np.float32)
        expected = _rounded(expected, bias.half)
        if expected.tobytes() != np.asarray(bias.scale, dtype=np.float32).tobytes():
            self.problems.append(
                f"{self.graph.describe(bias)}: the scale of a bias that is not its input's times its weight's"
            )
        elif any(bias.zero_point):
            self.problems.append(
                f"{self.graph.describe(bias)}: a bias with a zero point of {max(bias.zero_point, key=abs)}"
            )

    def _closest(self, positions: Sequence[int], tensor: FileTensor) -> int | None:
        alike = [p for p in positions if len(self.table[p].scale) == len(tensor.scale) and p not in self.tried]
        return min(alike, key=lambda p: _distance(self.table[p], tensor), default=None)

    def _mismatch(self, position: int | None, tensor: FileTensor) -> None:
        place = self.graph.describe(tensor)
        if position is None:
            self.problems.append(f"{place}: its scale of {tensor.scale[0]:.9g} was not learned")
            return
        self.tried.add(position)
        entry = self.table[position]
        learned, found = _rounded(entry.scale, tensor.half), np.asarray(tensor.scale, dtype=np.float32)
        what = f"{entry.kind} '{entry.tensor}'"
        if tensor.bounds is not None:
            low, high = _bounds(entry)
            has = f"{tensor.bounds[0]:.9g} to {tensor.bounds[1]:.9g}"
            self.problems.append(f"{what}: learned range {low:.9g} to {high:.9g}, {place} has {has}")
            return
        different = np.flatnonzero(learned != found)
        if different.size == 0:
            pairs = enumerate(zip(entry.zero_point, tensor.zero_point, strict=False))
            off = next((channel for channel, (one, other) in pairs if one != other), 0)
            found_zero = tensor.zero_point[off] if tensor.zero_point else "none"
            self.problems.append(f"{what}: learned zero point {entry.zero_point[off]}, {place} has {found_zero}")
            return
        channel = int(different[0])
        where = f" in channel {channel}" if len(learned) > 1 else ""
        self.problems.append(f"{what}: learned scale {learned[channel]:.9g}{where}, {place} has {found[channel]:.9g}")


def _fits(learned: frozenset[int], found: frozenset[int]) -> bool:
    """The same sources; one that could not be placed may stand for any."""
    if UNKNOWN not in found:
        return learned == found
    known = found - {UNKNOWN}
    return known < learned


def _bounds(entry: Quantizer) -> tuple[np.float32, np.float32]:
    """The range that a scale and a zero point come to, each end rounded once to float32."""
    scale, zero = np.float32(entry.scale[0]), entry.zero_point[0]
    return np.float32(entry.low - zero) * scale, np.float32(entry.high - zero) * scale


def _holds(entry: Quantizer, tensor: FileTensor) -> bool:
    if tensor.bounds is not None:
        return np.asarray(_bounds(entry)).tobytes() == np.asarray(tensor.bounds).tobytes()
    learned = _rounded(entry.scale, tensor.half)
    return (
        learned.tobytes() == np.asarray(tensor.scale, dtype=np.float32).tobytes()
        and entry.zero_point == tensor.zero_point
    )


def _same_bits(one: FileTensor, other: FileTensor) -> bool:
    """Where one of them is held in half precision, the other is rounded alike."""
    half = one.half or other.half
    scales = [_rounded(tensor.scale, half).tobytes() for tensor in (one, other)]
    return scales[0] == scales[1] and (one.zero_point, one.bounds) == (other.zero_point, other.bounds)


def _rounded(scale: Sequence[float] | Sequence[np.float32] | np.ndarray, half: bool) -> np.ndarray:
    """Float32 scales as a file holds them: unchanged, or rounded to float16."""
    exact = np.asarray(scale, dtype=np.float32)
    return exact.astype(np.float16).astype(np.float32) if half else exact


def _distance(entry: Quantizer, tensor: FileTensor) -> tuple[int, float]:
    learned, found = _rounded(entry.scale, tensor.half), np.asarray(tensor.scale, dtype=np.float32)
    with np.errstate(all="ignore"):
        return int((found != learned).sum()), float(np.nan_to_num(np.abs(found / learned - 1), nan=np.inf).max())
