"""TensorFlow's TFLite converter on a Keras twin of the student: the same layers, the same weights."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekd.models.evaluate import predict
from edgekd.quiet import quiet
from edgekd.runtimes.session import channels_last

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
TOLERANCE = 1e-4
CHECKED = 4
IMAGE_DIMENSIONS = 4


def convert(model: nn.Module, calibration: torch.Tensor, file: Path) -> Path:
    """Post-training quantization to full integer as TensorFlow's guide has it: int8 in and out, token ids int32.

    Raises ValueError if the twin's outputs are further than TOLERANCE from the student's.
    """
    with quiet():
        import tensorflow

        twin = keras_twin(model, calibration[:1])
        difference = largest_difference(twin, model, calibration[:CHECKED])
        if difference > TOLERANCE:
            raise ValueError(f"the Keras twin is {difference:.2g} away from the student")
        converter = tensorflow.lite.TFLiteConverter.from_keras_model(twin)
        converter.optimizations = [tensorflow.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([sample[None]] for sample in channels_last(calibration.numpy()))
        converter.target_spec.supported_ops = [tensorflow.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_output_type = tensorflow.int8
        if calibration.is_floating_point():
            converter.inference_input_type = tensorflow.int8
        file.write_bytes(converter.convert())
    return file


def largest_difference(twin: Any, model: nn.Module, inputs: torch.Tensor) -> float:
    """Between the float outputs of both for these inputs."""
    expected = predict(model, inputs)
    found = np.concatenate([twin(sample[None]).numpy() for sample in channels_last(inputs.numpy())])
    return float(np.abs(expected - found).max())


def keras_twin(model: nn.Module, example: torch.Tensor) -> Any:
    """A Keras model of batch 1, images channels last, built step by step from the student's exported graph."""
    program = torch.export.export(model.eval(), (torch.zeros_like(example).contiguous(),), strict=False)
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    values: dict[str, Any] = {node: program.state_dict[name].detach().numpy() for node, name in names.items()}
    return _Twin(values).model(program.graph)


class _Twin:
    """The graph's values so far, by name: numpy arrays for weights, Keras tensors for what is computed.

    There is a method for each operation of the graph, with the arguments that torch gives it.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        import keras

        self.keras, self.layers, self.ops, self.values = keras, keras.layers, keras.ops, values

    def model(self, graph: torch.fx.Graph) -> Any:
        inputs = None
        for node in graph.nodes:
            if node.op == "placeholder" and node.name not in self.values:
                inputs = self.values[node.name] = self.input(node.meta["val"])
            elif node.op == "call_function":
                step: Callable[..., Any] = getattr(self, str(node.target).split(".")[1])
                arguments = [self.values[one.name] if isinstance(one, torch.fx.Node) else one for one in node.args]
                self.values[node.name] = step(*arguments)
            elif node.op == "output":
                return self.keras.Model(inputs, self.values[node.args[0][0].name])
        raise ValueError("a graph without an output")

    def input(self, example: torch.Tensor) -> Any:
        shape = tuple(example.shape)
        if len(shape) == IMAGE_DIMENSIONS:
            shape = (shape[0], *shape[2:], shape[1])
        return self.keras.Input(batch_shape=shape, dtype=str(example.dtype).removeprefix("torch."))

    def conv2d(
        self,
        inputs: Any,
        weight: np.ndarray,
        bias: np.ndarray | None = None,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
    ) -> Any:
        outputs, _, *kernel = weight.shape
        same = all(2 * side == size - 1 and step == 1 for side, size, step in zip(padding, kernel, stride, strict=True))
        if not same and any(padding):
            inputs = self.layers.ZeroPadding2D(tuple(padding))(inputs)
        settings = {"strides": tuple(stride), "padding": "same" if same else "valid", "use_bias": bias is not None}
        if groups == 1:
            layer, kernels = self.layers.Conv2D(outputs, kernel, **settings), weight.transpose(2, 3, 1, 0)
        else:
            layer, kernels = self.layers.DepthwiseConv2D(kernel, **settings), weight.transpose(2, 3, 0, 1)
        return _filled(layer, inputs, kernels, *([] if bias is None else [bias]))

    def batch_norm(self, inputs: Any, *arguments: Any) -> Any:
        weight, bias, mean, variance, _, _, epsilon, _ = arguments
        return _filled(self.layers.BatchNormalization(epsilon=epsilon), inputs, weight, bias, mean, variance)

    def layer_norm(self, inputs: Any, shape: list[int], weight: np.ndarray, bias: np.ndarray, *_: Any) -> Any:
        return _filled(self.layers.LayerNormalization(epsilon=1e-5), inputs, weight, bias)

    def linear(self, inputs: Any, weight: np.ndarray, bias: np.ndarray) -> Any:
        return _filled(self.layers.Dense(len(weight)), inputs, weight.T, bias)

    def embedding(self, weight: np.ndarray, ids: Any) -> Any:
        return _filled(self.layers.Embedding(*weight.shape), ids, weight)

    def scaled_dot_product_attention(self, query: Any, key: Any, value: Any) -> Any:
        scores = self.ops.matmul(query, self.ops.transpose(key, (0, 1, 3, 2))) * query.shape[-1] ** -0.5
        return self.ops.matmul(self.ops.softmax(scores), value)

    def relu(self, inputs: Any) -> Any:
        return self.layers.ReLU()(inputs)

    def hardtanh(self, inputs: Any, low: float, high: float) -> Any:
        return self.layers.ReLU(high)(inputs)

    def add(self, one: Any, other: Any) -> Any:
        return self.ops.add(one, other)

    def dropout(self, inputs: Any, *_: Any) -> Any:
        return inputs

    def adaptive_avg_pool2d(self, inputs: Any, size: list[int]) -> Any:
        return self.layers.GlobalAveragePooling2D()(inputs)

    def flatten(self, inputs: Any, start: int = 0) -> Any:
        return inputs  # the pooling before it has done so

    def mean(self, inputs: Any, dimensions: list[int]) -> Any:
        return self.ops.mean(inputs, axis=dimensions)

    def reshape(self, inputs: Any, shape: list[int]) -> Any:
        return self.ops.reshape(inputs, shape)

    def transpose(self, inputs: Any, one: int, other: int) -> Any:
        return self.ops.swapaxes(inputs, one, other)


def _filled(layer: Any, inputs: Any, *weights: np.ndarray) -> Any:
    outputs = layer(inputs)
    layer.set_weights(list(weights))
    return outputs
