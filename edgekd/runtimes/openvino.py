"""OpenVINO on the CPU: run an .xml file, and see what it computes in float."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.errors import DeviceError
from edgekd.quiet import quiet
from edgekd.readers.openvino import read_graph
from edgekd.runtimes.session import (
    Placement,
    Session,
    TensorSpec,
    fixed_shape,
    input_scales,
    quantized_tensors,
    real_values,
)

COMPUTE = ("Convolution", "FullyConnected", "MatMul")
"""What does the work of a network; in an int8 model these run on integers."""
INTEGERS = ("u8", "i8")


class OpenVINOSession(Session):
    """A compiled .xml file with its .bin; float parts are computed in float32.

    Raises UsageError if the file is missing or not an IR, DeviceError if the runtime refuses it.
    """

    def __init__(self, file: Path, threads: int = 1) -> None:
        graph = read_graph(file)
        scales = input_scales(graph)
        import openvino

        self._file = file
        self._quantized = any(tensor.bounds for tensor in graph.tensors)
        self._core = openvino.Core()
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        try:
            with quiet():
                started = time.perf_counter_ns()
                self._compiled = self._core.compile_model(str(file), "CPU", settings)
                self._request = self._compiled.create_infer_request()
                self.load_ns = time.perf_counter_ns() - started
        except Exception as error:
            reason = " ".join(str(error).split())
            raise DeviceError(f"{file}: OpenVINO refuses it: {reason}") from error
        self.inputs = [
            _spec(port, fixed_shape(file, port.any_name, _sides(port)), *scales.get(port.any_name, (0.0, 0)))
            for port in self._compiled.inputs
        ]
        self.outputs = [
            _spec(port, tuple(side or 1 for side in _sides(port)), 0.0, 0) for port in self._compiled.outputs
        ]
        self.invoke = self._request.infer

    def set_inputs(self, values: Sequence[np.ndarray]) -> None:
        for position, value in enumerate(values):
            tensor = self._request.get_input_tensor(position)
            tensor.shape = value.shape
            tensor.data[:] = value

    def get_outputs(self) -> list[np.ndarray]:
        return [self._request.get_output_tensor(position).data.copy() for position in range(len(self.outputs))]

    def placement(self) -> Placement:
        """Every node runs on the CPU; what counts is which compute in float although activations are quantized."""
        nodes = [_runtime_info(node) for node in self._compiled.get_runtime_model().get_ordered_ops()]
        work = [(position, kind, precision) for position, (kind, precision) in enumerate(nodes) if kind in COMPUTE]
        missing = [f"{p}:{kind}" for p, kind, precision in work if self._quantized and precision not in INTEGERS]
        return Placement(sum(kind != "Const" for kind, _ in nodes), 1, tuple(missing))

    def tensors(self, sample: np.ndarray) -> dict[int, np.ndarray]:
        """The file is compiled with a result behind each; what a result reads is not fused, and may round otherwise."""
        graph, model = read_graph(self._file), self._core.read_model(str(self._file))
        wanted = quantized_tensors(graph)
        inner = [tensor for tensor in wanted if tensor.index not in graph.inputs]
        ports = model.add_outputs([(tensor.name, 0) for tensor in inner])
        compiled = self._core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        answers = compiled([sample[None]])
        found = {tensor.index: answers[model.get_result_index(port)] for tensor, port in zip(inner, ports, strict=True)}
        return {tensor.index: real_values(tensor, found.get(tensor.index, sample[None])) for tensor in wanted}


def _runtime_info(node: Any) -> tuple[str, str]:
    info = node.get_rt_info()
    return tuple(str(info[name].value) if name in info else "" for name in ("layerType", "runtimePrecision"))  # type: ignore[return-value]


def _sides(port: Any) -> list[int | None]:
    """The shape of a port, None for a side that the file leaves open."""
    return [int(side.get_length()) if side.is_static else None for side in port.partial_shape]


def _spec(port: Any, shape: tuple[int, ...], scale: float, zero_point: int) -> TensorSpec:
    dtype = np.dtype(port.get_element_type().to_dtype()).name
    return TensorSpec(port.any_name, shape, dtype, scale, zero_point)
