"""LiteRT (ai-edge-litert): run a .tflite file, and see what its delegate took."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.errors import DeviceError, UsageError
from edgekd.quiet import quiet

IDENTIFIER = b"TFL3"
IMAGE_DIMENSIONS = 4


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a file. For a quantized one, real = scale * (q - zero_point); scale 0 means float."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float
    zero_point: int

    def quantize(self, values: np.ndarray) -> np.ndarray:
        """Float values to what the tensor holds, rounded to the nearest and clipped."""
        if self.scale == 0:
            return values.astype(self.dtype)
        limits = np.iinfo(self.dtype)
        numbers = np.round(values / np.float32(self.scale)) + self.zero_point
        return np.clip(numbers, limits.min, limits.max).astype(self.dtype)

    def dequantize(self, numbers: np.ndarray) -> np.ndarray:
        """What the tensor holds to float32."""
        if self.scale == 0:
            return numbers.astype(np.float32)
        return (numbers.astype(np.float32) - self.zero_point) * np.float32(self.scale)


class Session:
    """A loaded file with its tensors allocated.

    Raises UsageError if the file is missing or not a TFLite model, DeviceError if the runtime refuses it.
    """

    def __init__(self, file: Path, threads: int = 1) -> None:
        check_file(file)
        from ai_edge_litert.interpreter import Interpreter

        try:
            with quiet():
                self._interpreter = Interpreter(str(file), num_threads=threads)
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split()) or "no reason given"
            raise DeviceError(f"{file}: ai-edge-litert refuses it: {reason}") from error
        self.inputs = [_spec(detail) for detail in self._interpreter.get_input_details()]
        self.outputs = [_spec(detail) for detail in self._interpreter.get_output_details()]
        self._input_indices = [detail["index"] for detail in self._interpreter.get_input_details()]
        self._output_indices = [detail["index"] for detail in self._interpreter.get_output_details()]
        self.invoke = self._interpreter.invoke

    def set_inputs(self, values: Sequence[np.ndarray]) -> None:
        for index, value in zip(self._input_indices, values, strict=True):
            self._interpreter.set_tensor(index, value)

    def get_outputs(self) -> list[np.ndarray]:
        return [self._interpreter.get_tensor(index) for index in self._output_indices]

    def run(self, samples: np.ndarray) -> np.ndarray:
        """Run samples, shape (N, ...), one by one through a model of one input and one output; returns (N, ...)."""
        results = []
        for sample in samples:
            self.set_inputs([sample[None]])
            self.invoke()
            results.append(self.get_outputs()[0][0])
        return np.stack(results)

    def nodes(self) -> list[dict[str, Any]]:
        """Every node as the runtime lists it; those of delegates come last, with the op name DELEGATE."""
        return list(self._interpreter._get_ops_details())


def channels_last(inputs: np.ndarray) -> np.ndarray:
    """Samples of shape (N, channels, height, width) as (N, height, width, channels); others as they are."""
    return np.ascontiguousarray(inputs.transpose(0, 2, 3, 1)) if inputs.ndim == IMAGE_DIMENSIONS else inputs


def check_file(file: Path) -> None:
    """Refuse what is not a TFLite file before native code sees it."""
    try:
        with file.open("rb") as stream:
            head = stream.read(8)
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror})") from error
    if head[4:8] != IDENTIFIER:
        raise UsageError(f"{file}: not a TFLite model (no {IDENTIFIER.decode()} mark at its start)")


def undelegated(session: Session) -> list[str]:
    """The names of nodes that no delegate took, in file order.

    A delegate stands for the nodes between its inputs and its outputs; they are found by walking back from its
    outputs until its inputs or constants are reached.
    """
    nodes = session.nodes()
    delegates = [node for node in nodes if node["op_name"] == "DELEGATE"]
    plain = [node for node in nodes if node["op_name"] != "DELEGATE"]
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
    return [f"{position}:{node['op_name']}" for position, node in enumerate(plain) if position not in taken]


def delegate_count(session: Session) -> int:
    return sum(node["op_name"] == "DELEGATE" for node in session.nodes())


def _spec(detail: dict[str, Any]) -> TensorSpec:
    scale, zero_point = detail["quantization"]
    shape = tuple(int(side) for side in detail["shape"])
    return TensorSpec(str(detail["name"]), shape, np.dtype(detail["dtype"]).name, float(scale), int(zero_point))
