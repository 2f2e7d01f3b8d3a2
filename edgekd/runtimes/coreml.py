"""Core ML: run an .mlpackage with Apple's runtime on a Mac, with the reference interpreter elsewhere."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.errors import DeviceError, ExportError, UsageError, first_line
from edgekd.quiet import quiet
from edgekd.readers.coreml import UNSIGNED_OFFSET, Value, check_file, graph_of, read_program
from edgekd.readers.graph import FileTensor
from edgekd.runtimes.session import Placement, Session, TensorSpec

if TYPE_CHECKING:
    from edgekd.runtimes.mil import Interpreter


class CoreMLSession(Session):
    """A loaded .mlpackage. A classifier gives its probabilities as one array in label order.

    Off the Mac the reference interpreter computes it in float32 (see `edgekd.runtimes.mil`): it shows what the file
    says, not how fast or how exactly a device computes it. On a Mac Apple's own runtime does; that way has been tried
    with a stand-in only, never on a Mac.

    Raises UsageError if the file is missing or no package, DeviceError if the runtime refuses it.
    """

    def __init__(self, file: Path, threads: int = 1) -> None:
        """`threads` is for other runtimes: Core ML chooses for itself."""
        check_file(file)
        started = time.perf_counter_ns()
        self._file, self._program = file, read_program(file)
        self.inputs = [self._spec(value) for value in self._program.inputs]
        self.outputs = [TensorSpec(value.name, value.shape, value.dtype, 0.0, 0) for value in self._program.outputs]
        self._feed: dict[str, np.ndarray] = {}
        self._results: list[np.ndarray] = []
        on_a_mac = sys.platform == "darwin"
        self._model: Any = _apple_model(file) if on_a_mac else None
        self.invoke = self._predict if on_a_mac else self._interpret
        if not on_a_mac:
            _ = self._interpreter
        self.load_ns = time.perf_counter_ns() - started

    def set_inputs(self, values: Sequence[np.ndarray]) -> None:
        self._feed = {spec.name: value for spec, value in zip(self.inputs, values, strict=True)}

    def get_outputs(self) -> list[np.ndarray]:
        return self._results

    def placement(self) -> Placement:
        """What Core ML takes where is decided on the device: no operation is known to be left out."""
        return Placement(sum(op.computed for op in self._program.ops), 0, ())

    def encode(self, inputs: np.ndarray, pixels: tuple[float, float] | None = None) -> np.ndarray:
        """The file itself says whether it takes pixels, and how they are normalised."""
        return super().encode(inputs, self._normalisation() if self._takes_pixels else None)

    def tensors(self, sample: np.ndarray) -> dict[int, np.ndarray]:
        """Of every operation's output, as the reference interpreter computes it."""
        graph = graph_of(self._program, self._file)
        tensors = {tensor.name: tensor for tensor in graph.tensors}
        computed = self._computed({self.inputs[0].name: sample[None]})
        return {tensors[name].index: _real(value, tensors[name]) for name, value in computed.items()}

    def _interpret(self) -> None:
        computed = self._computed(self._feed)
        self._results = [computed[spec.name] for spec in self.outputs]

    def _predict(self) -> None:
        feed = {name: _picture(value) if name == self._program.image else value for name, value in self._feed.items()}
        try:
            answer = self._model.predict(feed)
        except Exception as error:
            raise DeviceError(f"{self._file}: Core ML cannot run it: {first_line(error)}") from error
        labels = self._program.labels
        if labels:
            (probabilities,) = (value for value in answer.values() if isinstance(value, dict))
            numbers = np.array([probabilities[label] for label in labels], dtype=np.float32)
            self._results = [numbers.reshape(self.outputs[0].shape)]
        else:
            self._results = [np.asarray(answer[spec.name]) for spec in self.outputs]

    @cached_property
    def _interpreter(self) -> "Interpreter":
        from edgekd.runtimes.mil import Interpreter

        with _refusals(self._file):
            return Interpreter(self._program)

    def _computed(self, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every value of the program by name. An image is a float tensor inside."""
        inputs = {value.name: feed[value.name].astype(value.dtype) for value in self._program.inputs}
        with _refusals(self._file):
            return {name: value.numpy() for name, value in self._interpreter.run(inputs).items()}

    @property
    def _takes_pixels(self) -> bool:
        return self._program.image is not None or self._program.metadata.get("edgekd.input") == "pixels"

    def _normalisation(self) -> tuple[float, float]:
        try:
            preprocessing = json.loads(self._program.metadata["edgekd.preprocessing"])
            return float(preprocessing["mean"]), float(preprocessing["std"])
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{self._file}: takes pixels, but its metadata has no mean and std of them") from error

    def _spec(self, value: Value) -> TensorSpec:
        return TensorSpec(
            value.name, value.shape, "uint8" if value.name == self._program.image else value.dtype, 0.0, 0
        )


@contextmanager
def _refusals(file: Path) -> Iterator[None]:
    """What the reference interpreter refuses, as what any runtime refuses."""
    try:
        yield
    except ExportError as error:
        raise DeviceError(f"{file}: {error}") from error


def _apple_model(file: Path) -> Any:
    try:
        with quiet():
            import coremltools

            return coremltools.models.MLModel(str(file))
    except Exception as error:
        raise DeviceError(f"{file}: Core ML refuses it: {first_line(error)}") from error


def _picture(pixels: np.ndarray) -> Any:
    """A picture for Core ML from uint8 pixels, shape (1, channels, height, width), of 1 or 3 channels."""
    from PIL import Image

    grey = pixels.shape[1] == 1
    return Image.fromarray(pixels[0, 0] if grey else np.ascontiguousarray(pixels[0].transpose(1, 2, 0)))


def _real(value: np.ndarray, tensor: FileTensor) -> np.ndarray:
    """A quantized tensor in real numbers; what is not quantized as it is."""
    if not tensor.scale or tensor.dtype not in ("int8", "uint8"):
        return value.astype(np.float32)
    shift = UNSIGNED_OFFSET if tensor.dtype == "uint8" else 0
    shape = [1] * value.ndim
    if tensor.axis is not None:
        shape[tensor.axis] = -1
    scale, zero_point = (np.asarray(one, np.float32).reshape(shape) for one in (tensor.scale, tensor.zero_point))
    return (value.astype(np.float32) - (zero_point + shift)) * scale
