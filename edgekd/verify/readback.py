"""Learned scales against the scales in a file, bit for bit."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgekd.compress.quantizers import Quantizer
from edgekd.verify.graph import FileGraph, FileTensor

BIAS_TOLERANCE = 1e-6
"""A bias has the scale of its input times that of its weight, rounded once or twice in float32."""


@dataclass(frozen=True)
class Readback:
    """learned: quantizers in the table. exact: those found in the file with the same bits. problems: one line each."""

    learned: int
    exact: int
    problems: tuple[str, ...]


def read_back(table: Sequence[Quantizer], graph: FileGraph) -> Readback:
    """Compare both ways: every learned quantizer must be in the file, every quantized tensor must follow from one.

    A bias has no quantizer of its own: its scale must be the input's times the weight's.
    """
    weights = [
        tensor for tensor in graph.tensors if tensor.scale and tensor.dtype == "int8" and tensor.constant is not None
    ]
    activations = [tensor for tensor in graph.tensors if tensor.scale and tensor.constant is None]
    problems, exact = [], 0
    for quantizer in table:
        candidates = weights if quantizer.kind == "weight" else activations
        if any(_same(quantizer, tensor) for tensor in candidates):
            exact += 1
        else:
            problems.append(f"{quantizer.kind} '{quantizer.tensor}': {_difference(quantizer, candidates, graph)}")
    for kind, tensors in (("weight", weights), ("activation", activations)):
        learned = [quantizer for quantizer in table if quantizer.kind == kind]
        for tensor in tensors:
            if not any(_same(quantizer, tensor) for quantizer in learned):
                problems.append(f"{graph.describe(tensor)}: its scale of {tensor.scale[0]:.9g} was not learned")
    problems += [problem for node in graph.nodes for problem in _bias_problems(graph, node.inputs)]
    return Readback(len(table), exact, tuple(problems))


def _same(quantizer: Quantizer, tensor: FileTensor) -> bool:
    learned = np.asarray(quantizer.scale, dtype=np.float32)
    found = np.asarray(tensor.scale, dtype=np.float32)
    return (
        learned.shape == found.shape
        and learned.tobytes() == found.tobytes()
        and quantizer.zero_point == tensor.zero_point
    )


def _difference(quantizer: Quantizer, candidates: Sequence[FileTensor], graph: FileGraph) -> str:
    alike = [tensor for tensor in candidates if len(tensor.scale) == len(quantizer.scale)]
    if not alike:
        return f"no quantized tensor with {len(quantizer.scale)} scale(s) in the file"
    learned = np.asarray(quantizer.scale, dtype=np.float32)

    def distance(tensor: FileTensor) -> tuple[int, float]:
        found = np.asarray(tensor.scale, dtype=np.float32)
        return int((found != learned).sum()), float(np.abs(found / learned - 1).max())

    closest = min(alike, key=distance)
    found = np.asarray(closest.scale, dtype=np.float32)
    if (found == learned).all():
        return f"learned zero point {quantizer.zero_point[0]}, {graph.describe(closest)} has {closest.zero_point[0]}"
    channel = int(np.flatnonzero(found != learned)[0])
    where = f" in channel {channel}" if len(learned) > 1 else ""
    return (
        f"learned scale {learned[channel]:.9g}{where}, the nearest is {found[channel]:.9g} at {graph.describe(closest)}"
    )


def _bias_problems(graph: FileGraph, inputs: tuple[int, ...]) -> list[str]:
    tensors = [graph.tensors[index] for index in inputs]
    biases = [tensor for tensor in tensors if tensor.dtype == "int32" and tensor.scale]
    if len(tensors) < 3 or not biases:
        return []
    source, weight, bias = tensors[0], tensors[1], biases[0]
    expected = np.float64(source.scale[0]) * np.asarray(weight.scale, dtype=np.float64)
    found = np.asarray(bias.scale, dtype=np.float64)
    if found.shape == expected.shape and np.allclose(found, expected, rtol=BIAS_TOLERANCE, atol=0.0):
        return []
    return [f"{graph.describe(bias)}: a bias whose scale is not its input's times its weight's"]
