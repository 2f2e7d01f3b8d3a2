"""ONNX Runtime on the CPU: run an .onnx file, and see what it computes in float."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.errors import DeviceError, UsageError
from edgekd.runtimes.session import Placement, Session, TensorSpec

COMPUTE = ("Conv", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul")
"""What does the work of a network; in an int8 model the runtime replaces each by an integer kernel."""


class OnnxRuntimeSession(Session):
    """A loaded .onnx file.

    Raises UsageError if the file is missing or not an ONNX model, DeviceError if the runtime refuses it.
    """

    def __init__(self, file: Path, threads: int = 1) -> None:
        check_file(file)
        self._file, self._threads = file, threads
        self._session = self._load(None)
        scales = _input_scales(file)
        self.inputs = [_spec(entry, *scales.get(entry.name, (0.0, 0))) for entry in self._session.get_inputs()]
        self.outputs = [_spec(entry, 0.0, 0) for entry in self._session.get_outputs()]
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
            self._load(optimised)
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

    def _load(self, optimised: Path | None) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if optimised is not None:
            options.optimized_model_filepath = str(optimised)
        try:
            return onnxruntime.InferenceSession(str(self._file), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            reason = " ".join(str(error).split())
            raise DeviceError(f"{self._file}: onnxruntime refuses it: {reason}") from error


def check_file(file: Path) -> None:
    """Refuse what is not an ONNX model, or one whose data lies in other files, before native code sees it."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(file), load_external_data=False)
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror})") from error
    except (DecodeError, ValueError) as error:
        raise UsageError(f"{file}: not an ONNX model") from error
    if not model.graph.node or not model.graph.output:
        raise UsageError(f"{file}: not an ONNX model (no graph in it)")
    outside = [tensor.name for tensor in model.graph.initializer if tensor.external_data]
    if outside:
        raise UsageError(f"{file}: '{outside[0]}' lies in another file; save the model with its data inside")


def _input_scales(file: Path) -> dict[str, tuple[float, int]]:
    """Scale and zero point of the inputs that the model dequantizes itself."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(file)).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    inputs = {entry.name for entry in graph.input}
    return {
        node.input[0]: (float(constants[node.input[1]]), int(constants[node.input[2]]))
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in inputs
    }


def _spec(entry: Any, scale: float, zero_point: int) -> TensorSpec:
    dtype = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int8)": "int8"}.get(entry.type)
    if dtype is None:
        dtype = entry.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(side if isinstance(side, int) else 1 for side in entry.shape)
    return TensorSpec(entry.name, shape, dtype, scale, zero_point)
