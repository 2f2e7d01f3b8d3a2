"""What a file makes a runtime do that its source does not ask for: layout changes, float islands between integers."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgekd.compress.fold import trace
from edgekd.errors import GateError
from edgekd.readers.graph import FileGraph, FileNode, layout_changes
from edgekd.runtimes.session import Placement
from edgekd.target import CoverageLimits

TRANSPOSES = (
    "transpose", "permute", "t", "numpy_T", "mT", "adjoint", "swapaxes", "swapdims", "movedim", "moveaxis",
    "channel_shuffle", "scaled_dot_product_attention",
)  # fmt: skip
"""Operations of a torch graph that a file may have one transpose for: attention turns its keys."""
QUANTIZERS = ("QUANTIZE", "QUANTIZELINEAR", "FAKEQUANTIZE")
DEQUANTIZERS = ("DEQUANTIZE", "DEQUANTIZELINEAR", "FAKEQUANTIZE", "CONSTEXPR_AFFINE_DEQUANTIZE")
MOVING = (
    "RESHAPE", "TRANSPOSE", "SQUEEZE", "UNSQUEEZE", "EXPAND_DIMS", "FLATTEN", "SPLIT", "SLICE", "GATHER", "CAST",
    "MAXPOOL", "MAX_POOL", "MAX_POOL_2D",
)  # fmt: skip
"""What changes no number."""
FUSED = ("RELU", "RELU6", "CLIP", "CLAMP", *MOVING)
"""What a runtime does in one step with the integer operation before it."""
LOOKUPS = ("GATHER", "EMBEDDING_LOOKUP")
BIAS = "ADD"
DEQUANTIZING = ("CONVERT", "SUBTRACT", "MULTIPLY")
"""How OpenVINO writes that stored integers are dequantized."""
ELEMENTWISE = ("ADD", "MUL", "MULTIPLY", "CONCAT")
INTEGERS = ("int8", "uint8")
COUNTS = ("int16", "uint16", "int32", "int64", "bool")
INTEGER_KERNELS = (
    "CONV", "CONVOLUTION", "GROUPCONVOLUTION", "CONVTRANSPOSE", "CONV_TRANSPOSE", "CONVOLUTIONBACKPROPDATA",
    "MATMUL", "GEMM", "LINEAR", "ADD", "MUL", "MULTIPLY", "CONCAT", "AVERAGEPOOL", "AVG_POOL", "AVGPOOL",
    "GLOBALAVERAGEPOOL", "REDUCEMEAN", "REDUCE_MEAN", "RESIZE", "INTERPOLATE", "UPSAMPLE_NEAREST_NEIGHBOR", "PAD",
)  # fmt: skip
"""What is computed on integers where a format has quantizers around it; all else is float between them."""


@dataclass(frozen=True)
class Coverage:
    """Where a runtime runs a file, and the operations that the target's limits count, as `position:op`."""

    placement: Placement
    stray_transposes: tuple[str, ...]
    float_islands: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """Counts and places, as JSON."""
        placement = self.placement
        return {
            "total": placement.total,
            "delegated": placement.total - len(placement.undelegated) - len(placement.lookups),
            "delegates": placement.delegates,
            "undelegated": list(placement.undelegated),
            "lookups": list(placement.lookups),
            "stray_transposes": len(self.stray_transposes),
            "float_islands": list(self.float_islands),
        }


def coverage(graph: FileGraph, placement: Placement, asked: int) -> Coverage:
    """Look at a file whose source asks for `asked` transposes."""
    return Coverage(placement, tuple(stray_transposes(graph, asked)), tuple(float_islands(graph)))


def check_coverage(limits: CoverageLimits, found: Coverage, asked_float: int = 0) -> None:
    """Raise GateError, naming the operations, where a limit is broken.

    asked_float: how many layers are float because they were asked to be; so many islands and float operations more.
    """
    counted = {
        "undelegated": found.placement.undelegated,
        "layout_changes": found.stray_transposes,
        "float_islands": found.float_islands,
    }
    for name, places in counted.items():
        limit = getattr(limits, name)
        if limit is not None and name != "layout_changes":
            limit += asked_float
        if limit is not None and len(places) > limit:
            what, shown = name.replace("_", " "), ", ".join(places[:5])
            raise GateError(f"coverage: {len(places)} {what} ({shown}), the target allows {limit}")


def asked_transposes(model: nn.Module, example: torch.Tensor) -> int:
    """How many transposes a model's own code stands for."""
    nodes = trace(model, example).graph.nodes
    names = [str(node.target).split(".") for node in nodes if node.op == "call_function"]
    return sum(name[0] == "aten" and name[1] in TRANSPOSES for name in names)


def stray_transposes(graph: FileGraph, asked: int) -> list[str]:
    """The transposes of a file beyond those that its source asks for."""
    return layout_changes(graph)[asked:]


def float_islands(graph: FileGraph) -> list[str]:
    """The connected groups of operations that compute in float in a model with quantized activations.

    Each as `position:op` of its first operation and how many there are. Where a format keeps quantizers beside float
    operations, one between a dequantized input and a quantized output counts as an integer operation, which is how
    runtimes read it.
    """
    search = _Islands(graph)
    if not search.quantized:
        return []
    groups: list[set[int]] = []
    for position in search.floats():
        tensors = {*graph.nodes[position].inputs, *graph.nodes[position].outputs} - search.constants
        joined = [group for group in groups if tensors & search.tensors_of(group)]
        groups = [group for group in groups if group not in joined] + [set().union({position}, *joined)]
    return [f"{min(group)}:{graph.nodes[min(group)].op} ({len(group)})" for group in sorted(groups, key=min)]


class _Islands:
    """Where numbers are quantized in a graph."""

    def __init__(self, graph: FileGraph) -> None:
        self.graph = graph
        self.makers = {index: node for node in graph.nodes for index in node.outputs}
        self.users: dict[int, list[FileNode]] = {}
        for node in graph.nodes:
            for index in node.inputs:
                self.users.setdefault(index, []).append(node)
        self.constants = {tensor.index for tensor in graph.tensors if tensor.constant is not None}
        for node in graph.nodes:
            if all(index in self.constants for index in node.inputs):
                self.constants.update(node.outputs)
        looked_up = (node.outputs for node in graph.nodes if node.op.upper() in LOOKUPS)
        given = self.constants.union(graph.inputs, *looked_up)
        self.quantized = any(
            tensor.scale and tensor.index not in given and tensor.dtype != "int32" for tensor in graph.tensors
        )
        apart = (*QUANTIZERS, *DEQUANTIZERS, *MOVING)
        self.typed = any(self.is_integer(node) for node in graph.nodes if node.op.upper() not in apart)
        """Does the format write integer operations as such?"""

    def floats(self) -> list[int]:
        return [position for position, node in enumerate(self.graph.nodes) if self.is_float(node)]

    def is_float(self, node: FileNode) -> bool:
        op = node.op.upper()
        numbers = [index for index in node.inputs if index not in self.constants and not self.counts(index)]
        if op in QUANTIZERS or op in DEQUANTIZERS or not numbers or self.is_integer(node):
            return False
        makers = [self.makers[index] for index in numbers if index in self.makers]
        if op in MOVING:
            return any(self.is_float(maker) for maker in makers)
        if op in DEQUANTIZING and all(self.is_dequantized(index) for index in numbers):
            return False
        if op in (*FUSED, BIAS) and makers and all(self.computes(maker) for maker in makers):
            return any(self.is_float(maker) for maker in makers)
        comes_in = op in INTEGER_KERNELS and not self.typed and all(map(self.is_dequantized, self.weightless(node)))
        return not (comes_in and all(self.is_quantized_next(index) for index in node.outputs))

    def counts(self, index: int) -> bool:
        """Token ids, shapes and positions are no numbers to compute with."""
        return self.graph.tensors[index].dtype in COUNTS

    def is_integer(self, node: FileNode) -> bool:
        tensors = [self.graph.tensors[index] for index in (*node.inputs, *node.outputs) if index not in self.constants]
        return bool(tensors) and all(tensor.dtype in INTEGERS for tensor in tensors)

    def computes(self, node: FileNode) -> bool:
        return node.op.upper() in INTEGER_KERNELS and not any(map(self.is_dequantized, node.outputs))

    def weightless(self, node: FileNode) -> list[int]:
        """The inputs of a node; for one with weights, only those that are no weight."""
        elementwise = node.op.upper() in ELEMENTWISE
        return [index for index in node.inputs if elementwise or index not in self.constants]

    def is_dequantized(self, index: int) -> bool:
        """Do these numbers come from 8 bits, with nothing done to them since?"""
        maker = self.makers.get(index)
        if self.graph.tensors[index].dtype in INTEGERS:
            return True
        if maker is None:
            return False
        op = maker.op.upper()
        if op in DEQUANTIZERS:
            return True
        sources = [source for source in maker.inputs if source not in self.constants and not self.counts(source)]
        return op in (*MOVING, *DEQUANTIZING) and all(self.is_dequantized(one) for one in sources)

    def is_quantized_next(self, index: int) -> bool:
        """Do these numbers become 8 bits, with nothing between that an integer operation cannot include?"""
        users = self.users.get(index, [])
        return bool(users) and all(self._closes(user) for user in users)

    def _closes(self, user: FileNode) -> bool:
        op = user.op.upper()
        passes = op in FUSED or (op == BIAS and any(index in self.constants for index in user.inputs))
        return op in QUANTIZERS or (passes and all(self.is_quantized_next(index) for index in user.outputs))

    def tensors_of(self, positions: set[int]) -> set[int]:
        nodes = [self.graph.nodes[position] for position in positions]
        return {index for node in nodes for index in (*node.inputs, *node.outputs)} - self.constants
