"""ONNX Runtime on the CPU: run an .onnx or .ort file, and see what it computes in float."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.errors import DeviceError, UsageError
from edgekd.quiet import quiet
from edgekd.readers import onnx as onnx_reader
from edgekd.runtimes.session import (
    Placement,
    Session,
    TensorSpec,
    fixed_shape,
    input_scales,
    quantized_tensors,
    real_values,
)

COMPUTE = ("Conv", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul")
"""What does the work of a network; in an int8 model the runtime replaces each by an integer kernel."""


class OnnxRuntimeSession(Session):
    """A loaded .onnx or .ort file.

    Raises UsageError if the file is missing or not a model of its suffix, DeviceError if the runtime refuses it.
    """

    def __init__(self, file: Path, threads: int = 1) -> None:
        scales = _input_scales(file)
        self._file, self._threads = file, threads
        self._session, self.load_ns = self._load(str(file))
        self.inputs = [
            _spec(entry, fixed_shape(file, entry.name, _sides(entry)), *scales.get(entry.name, (0.0, 0)))
            for entry in self._session.get_inputs()
        ]
        self.outputs = [
            _spec(entry, tuple(side or 1 for side in _sides(entry)), 0.0, 0) for entry in self._session.get_outputs()
        ]
        self._feed: dict[str, np.ndarray] = {}
        self._results: list[np.ndarray] = []

    def invoke(self) -> None:
        self._results = self._session.run(None, self._feed)

    def set_inputs(self, values: Sequence[np.ndarray]) -> None:
        self._feed = {spec.name: value for spec, value in zip(self.inputs, values, strict=True)}

    def get_outputs(self) -> list[np.ndarray]:
        return self._results

    def placement(self) -> Placement:
        """Every node runs on the CPU; what counts is which of the optimised graph multiply a weight in float although
        the model is quantized. Products of two activations, as in attention, are float by design.
        """
        import onnx

        with tempfile.TemporaryDirectory() as place:
            optimised = Path(place) / "optimised.onnx"
            self._load(str(self._file), optimized_model_filepath=str(optimised))
            graph = onnx.load(str(optimised)).graph
        nodes, weights = graph.node, {tensor.name for tensor in graph.initializer}
        weights |= {node.output[0] for node in nodes if node.op_type == "DequantizeLinear" and node.input[0] in weights}
        quantized = any(node.op_type.startswith("QLinear") or node.op_type == "QGemm" for node in nodes)
        missing = [
            f"{position}:{node.op_type}"
            for position, node in enumerate(nodes)
            if quantized and node.op_type in COMPUTE and node.input[1] in weights
        ]
        return Placement(len(nodes), 1, tuple(missing))

    def tensors(self, sample: np.ndarray) -> dict[int, np.ndarray]:
        """Without the optimisations that put integer kernels in the place of float ones; they may round otherwise."""
        if self._file.suffix == ".ort":
            raise UsageError(
                f"{self._file}: the inner tensors of an .ort file cannot be read; "
                "those of the .onnx file that it was converted from can"
            )
        import onnxruntime

        graph = onnx_reader.read_graph(self._file)
        wanted = quantized_tensors(graph)
        inner = [tensor for tensor in wanted if tensor.index not in graph.inputs]
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session, _ = self._load(
            _with_outputs(onnx_reader.read_model(self._file), {tensor.name: tensor.dtype for tensor in inner}),
            graph_optimization_level=level,
        )
        names, feed = [entry.name for entry in session.get_outputs()], {self.inputs[0].name: sample[None]}
        found = dict(zip(names, session.run(names, feed), strict=True)) | feed
        return {tensor.index: real_values(tensor, found[tensor.name]) for tensor in wanted}

    def _load(self, model: str | bytes, **settings: Any) -> tuple[Any, int]:
        """The runtime with a file or its content in it, session options by name, and the nanoseconds that it took."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        for name, value in settings.items():
            setattr(options, name, value)
        try:
            with quiet():
                started = time.perf_counter_ns()
                session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
                return session, time.perf_counter_ns() - started
        except Exception as error:
            reason = " ".join(str(error).split())
            raise DeviceError(f"{self._file}: onnxruntime refuses it: {reason}") from error


def _input_scales(file: Path) -> dict[str, tuple[float, int]]:
    """Scale and zero point of the inputs that the model dequantizes itself. Raises UsageError if it is not a model."""
    if file.suffix == ".ort":
        from edgekd.readers.ort import read_graph

        return input_scales(read_graph(file))
    from onnx import numpy_helper

    graph = onnx_reader.read_model(file).graph
    constants, inputs = {tensor.name: tensor for tensor in graph.initializer}, {entry.name for entry in graph.input}
    found = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in inputs and set(node.input[1:]) <= constants.keys():
            scale, *zero_point = (numpy_helper.to_array(constants[name]).ravel() for name in node.input[1:])
            if scale.size == 1:
                found[node.input[0]] = (float(scale[0]), int(zero_point[0][0]) if zero_point else 0)
    return found


def _with_outputs(model: Any, dtypes: dict[str, str]) -> bytes:
    """A model that hands out these inner tensors as well, name -> dtype."""
    from onnx import helper

    handed_out = {entry.name for entry in model.graph.output}
    for name, dtype in dtypes.items():
        if name not in handed_out:
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            model.graph.output.append(helper.make_tensor_value_info(name, kind, None))
    content: bytes = model.SerializeToString()
    return content


def _sides(entry: Any) -> list[int | None]:
    """The shape of an input or output, None for a side that the file leaves open."""
    return [side if isinstance(side, int) else None for side in entry.shape]


def _spec(entry: Any, shape: tuple[int, ...], scale: float, zero_point: int) -> TensorSpec:
    dtype = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int8)": "int8"}.get(entry.type)
    if dtype is None:
        dtype = entry.type.removeprefix("tensor(").removesuffix(")")
    return TensorSpec(entry.name, shape, dtype, scale, zero_point)
