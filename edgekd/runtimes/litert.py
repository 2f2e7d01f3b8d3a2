"""LiteRT (ai-edge-litert): run a .tflite file, and see what its delegate took."""

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.errors import DeviceError
from edgekd.quiet import quiet
from edgekd.readers.tflite import check_file, read_graph
from edgekd.runtimes.session import Placement, Session, TensorSpec, fixed_shape, quantized_tensors, real_values

DELEGATE = "DELEGATE"
LOOKUPS, RESHAPE, DEQUANTIZE = ("GATHER", "EMBEDDING_LOOKUP"), "RESHAPE", "DEQUANTIZE"
IDS = ("int32", "int64")


class LiteRTSession(Session):
    """A loaded .tflite file with its tensors allocated; images are channels last.

    Raises UsageError if the file is missing or not a TFLite model, DeviceError if the runtime refuses it.
    """

    channels_last = True

    def __init__(self, file: Path, threads: int = 1) -> None:
        check_file(file)
        self._file = file
        self._interpreter, self.load_ns = _interpreter(file, num_threads=threads)
        self.inputs = [_spec(detail) for detail in self._interpreter.get_input_details()]
        for detail in self._interpreter.get_input_details():
            sides = [None if side < 0 else int(side) for side in detail["shape_signature"]]
            fixed_shape(file, str(detail["name"]), sides)
        self.outputs = [_spec(detail) for detail in self._interpreter.get_output_details()]
        self._input_indices = [detail["index"] for detail in self._interpreter.get_input_details()]
        self._output_indices = [detail["index"] for detail in self._interpreter.get_output_details()]
        self.invoke = self._interpreter.invoke

    def set_inputs(self, values: Sequence[np.ndarray]) -> None:
        for index, value in zip(self._input_indices, values, strict=True):
            self._interpreter.set_tensor(index, value)

    def get_outputs(self) -> list[np.ndarray]:
        return [self._interpreter.get_tensor(index) for index in self._output_indices]

    def placement(self) -> Placement:
        ids = [spec.dtype in IDS for spec in self.inputs]
        return placement_of(self._interpreter._get_ops_details(), set(itertools.compress(self._input_indices, ids)))

    def tensors(self, sample: np.ndarray) -> dict[int, np.ndarray]:
        """The delegate runs node by node for it, with the same arithmetic."""
        loaded, _ = _interpreter(self._file, experimental_preserve_all_tensors=True)
        loaded.set_tensor(self._input_indices[0], sample[None])
        loaded.invoke()
        tensors = quantized_tensors(read_graph(self._file))
        return {tensor.index: real_values(tensor, loaded.get_tensor(tensor.index)) for tensor in tensors}


def placement_of(nodes: Sequence[dict[str, Any]], ids: set[int]) -> Placement:
    """From the operations as the interpreter lists them, delegates among them; `ids` are tensors of token ids."""
    delegates = [node for node in nodes if node["op_name"] == DELEGATE]
    plain = [node for node in nodes if node["op_name"] != DELEGATE]
    taken, lookups = _taken(plain, delegates), _fed_by(plain, ids)
    left = [(position, f"{position}:{node['op_name']}") for position, node in enumerate(plain) if position not in taken]
    return Placement(
        len(plain),
        len(delegates),
        tuple(name for position, name in left if position not in lookups),
        tuple(name for position, name in left if position in lookups),
    )


def _fed_by(plain: Sequence[dict[str, Any]], ids: set[int]) -> set[int]:
    """The positions of the nodes that reshape token ids, fetch rows by them, or make these rows float."""
    found, flowing, rows = set(), set(ids), set[int]()
    for position, node in enumerate(plain):
        op, outputs = node["op_name"], {int(tensor) for tensor in node["outputs"]}
        inputs = {int(tensor) for tensor in node["inputs"]}
        if op in (*LOOKUPS, RESHAPE) and inputs & flowing:
            found.add(position)
            flowing |= outputs if op == RESHAPE else set()
            rows |= outputs if op in LOOKUPS else set()
        elif op == DEQUANTIZE and inputs & rows:
            found.add(position)
    return found


def _interpreter(file: Path, **options: Any) -> tuple[Any, int]:
    """The runtime with the file in it, tensors allocated, and the nanoseconds that it took."""
    from ai_edge_litert.interpreter import Interpreter

    try:
        with quiet():
            started = time.perf_counter_ns()
            loaded = Interpreter(str(file), **options)
            loaded.allocate_tensors()
            return loaded, time.perf_counter_ns() - started
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise DeviceError(f"{file}: ai-edge-litert refuses it: {reason}") from error


def _taken(plain: Sequence[dict[str, Any]], delegates: Sequence[dict[str, Any]]) -> set[int]:
    """The positions of the nodes that a delegate stands for.

    Those are the nodes between its inputs and its outputs: found by walking back from its outputs until its inputs or
    constants are reached.
    """
    maker = {int(tensor): position for position, node in enumerate(plain) for tensor in node["outputs"]}
    taken: set[int] = set()
    for delegate in delegates:
        stop = {int(tensor) for tensor in delegate["inputs"]}
        waiting = [int(tensor) for tensor in delegate["outputs"]]
        while waiting:
            tensor = waiting.pop()
            position = maker.get(tensor)
            if tensor in stop or position is None or position in taken:
                continue
            taken.add(position)
            waiting += [int(source) for source in plain[position]["inputs"] if source >= 0]
    return taken


def _spec(detail: dict[str, Any]) -> TensorSpec:
    scale, zero_point = detail["quantization"]
    shape = tuple(int(side) for side in detail["shape"])
    return TensorSpec(str(detail["name"]), shape, np.dtype(detail["dtype"]).name, float(scale), int(zero_point))
