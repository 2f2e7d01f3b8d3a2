"""What every runtime offers: a loaded file that takes and gives arrays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekd.errors import UsageError
from edgekd.readers.graph import UNSIGNED_OFFSET, FileGraph, FileTensor

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


@dataclass(frozen=True)
class Placement:
    """Where a runtime runs the operations of a file, as `position:op`.

    undelegated: those left to its slow path. lookups: those that only fetch rows of a table by token ids, which no
    fast path takes or needs to.
    """

    total: int
    delegates: int
    undelegated: tuple[str, ...]
    lookups: tuple[str, ...] = ()


class Session:
    """A loaded file of one runtime. Runtimes fill in the fields and the first four methods below.

    load_ns: nanoseconds that the runtime itself took to load the file and get ready to run, without edgekd's checks.
    """

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    invoke: Callable[[], object]
    load_ns: int
    channels_last = False

    def set_inputs(self, values: Sequence[np.ndarray]) -> None:
        raise NotImplementedError

    def get_outputs(self) -> list[np.ndarray]:
        raise NotImplementedError

    def placement(self) -> Placement:
        raise NotImplementedError

    def tensors(self, sample: np.ndarray) -> dict[int, np.ndarray]:
        """What each quantized tensor of the file holds for one sample, as real values, float32, in its own shape.

        sample: an encoded input without its batch dimension. The keys are the tensors' indices in the graph that
        `edgekd.readers.read_graph` reads. The file is loaded again, in a form that keeps inner tensors.
        Raises UsageError where the format or the runtime does not let them be read.
        """
        raise UsageError(f"{type(self).__name__}: inner tensors cannot be read")

    def encode(self, inputs: np.ndarray, pixels: tuple[float, float] | None = None) -> np.ndarray:
        """Model inputs, (N, channels, height, width) or (N, ...), to what the file's input holds.

        pixels: mean and standard deviation of the normalisation, where the model does it itself and the file takes
        raw pixels: then these are found again.
        """
        spec = self.inputs[0]
        laid_out = channels_last(inputs) if self.channels_last else inputs
        if pixels is not None and spec.scale == 0:
            mean, std = pixels
            return np.clip(np.round(laid_out * std + mean), 0, 255).astype(spec.dtype)
        return spec.quantize(laid_out)

    def decode(self, outputs: np.ndarray) -> np.ndarray:
        """What the file's output holds, (N, ...), to float32."""
        return self.outputs[0].dequantize(outputs)

    def run(self, samples: np.ndarray) -> np.ndarray:
        """Run samples, shape (N, ...), one by one through a model of one input and one output; returns (N, ...)."""
        results = []
        for sample in samples:
            self.set_inputs([sample[None]])
            self.invoke()
            results.append(self.get_outputs()[0][0])
        return np.stack(results)


def fixed_shape(file: Path, name: str, sides: Sequence[int | None]) -> tuple[int, ...]:
    """The shape of an input, where None stands for a side that the file leaves open: 1 for the first, the batch.

    Raises UsageError for another one: what a model costs depends on it, and nobody knows it.
    """
    if None in sides[1:]:
        shown = ", ".join("?" if side is None else str(side) for side in sides)
        raise UsageError(f"{file}: input '{name}' has no fixed shape ({shown}); save the model with one")
    return tuple(1 if side is None else side for side in sides)


def layout(session: Session) -> str:
    """How the first input is laid out: N samples, C channels, H rows and W columns, or L tokens or numbers."""
    if len(session.inputs[0].shape) != IMAGE_DIMENSIONS:
        return "NL"
    return "NHWC" if session.channels_last else "NCHW"


def channels_last(inputs: np.ndarray) -> np.ndarray:
    """Samples of shape (N, channels, height, width) as (N, height, width, channels); others as they are."""
    return np.ascontiguousarray(inputs.transpose(0, 2, 3, 1)) if inputs.ndim == IMAGE_DIMENSIONS else inputs


def input_scales(graph: FileGraph) -> dict[str, tuple[float, int]]:
    """Scale and zero point of a file's quantized inputs by name, as the integers of the input's own dtype mean them."""
    tensors = [graph.tensors[index] for index in graph.inputs]
    return {
        tensor.name: (float(tensor.scale[0]), _zero_point(tensor, tensor.dtype)) for tensor in tensors if tensor.scale
    }


def quantized_tensors(graph: FileGraph) -> list[FileTensor]:
    """The tensors of a file that hold quantized activations."""
    return [tensor for tensor in graph.tensors if tensor.scale and tensor.constant is None]


def real_values(tensor: FileTensor, values: np.ndarray) -> np.ndarray:
    """What a quantized tensor's integers stand for, float32; values that a runtime gives as real ones stay."""
    if not np.issubdtype(values.dtype, np.integer):
        return values.astype(np.float32)
    return (values.astype(np.float32) - np.float32(_zero_point(tensor, values.dtype.name))) * tensor.scale[0]


def _zero_point(tensor: FileTensor, dtype: str) -> int:
    return tensor.zero_point[0] + (UNSIGNED_OFFSET if dtype == "uint8" else 0)
