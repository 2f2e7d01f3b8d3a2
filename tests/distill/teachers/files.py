"""Files of the linear teacher, written by onnx and by tensorflow."""

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.distill.teachers.small import SHAPE, SIZE, weights


def onnx_file(
    file: Path,
    *,
    shape: tuple[int, ...] = SHAPE,
    batch: int | None = None,
    kernel: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    metadata: dict[str, str] | None = None,
    softmax: bool = False,
    extra_output: str | None = None,
) -> Path:
    """Images, channels first, flattened and multiplied; a kernel for shape (n,) is taken as it is."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    if kernel is None or bias is None:
        kernel, bias = weights()
        kernel = kernel.reshape(*SHAPE[1:], SHAPE[0], -1).transpose(2, 0, 1, 3).reshape(SIZE, -1)
    side = "N" if batch is None else batch
    constants = [
        numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in (("w", kernel), ("b", bias))
    ]
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["numbers"]),
        helper.make_node("Softmax" if softmax else "Identity", ["numbers"], ["logits"]),
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [side, len(bias)])]
    if extra_output is not None:
        nodes.append(helper.make_node("Identity", ["flat"], [extra_output]))
        outputs.insert(0, helper.make_tensor_value_info(extra_output, TensorProto.FLOAT, [side, kernel.shape[0]]))
    graph = helper.make_graph(
        nodes,
        "teacher",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [side, *shape])],
        outputs,
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    for key, value in (metadata or {}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(model)
    onnx.save(model, str(file))
    return file


def keras_model(activation: str | None = None, shape: tuple[int, ...] = (6, 5, 2), outputs: int = 3) -> Any:
    import tensorflow

    layers = tensorflow.keras.layers
    model = tensorflow.keras.Sequential(
        [layers.Input(shape, name="images"), layers.Flatten(), layers.Dense(outputs, activation=activation)]
    )
    if np.prod(shape) == SIZE:
        model.set_weights(list(weights(outputs)))
    return model


@functools.cache
def saved_model() -> Path:
    """The folder of a SavedModel, written once for all tests."""
    folder = Path(tempfile.mkdtemp()) / "saved"
    keras_model().export(folder, verbose=False)
    return folder


@functools.cache
def _tflite_content() -> bytes:
    import tensorflow

    content: bytes = tensorflow.lite.TFLiteConverter.from_saved_model(str(saved_model())).convert()
    return content


def tflite_file(file: Path) -> Path:
    file.write_bytes(_tflite_content())
    return file


def keras_file(file: Path, **settings: Any) -> Path:
    keras_model(**settings).save(file)
    return file


def copy_of_saved_model(folder: Path) -> Path:
    return Path(shutil.copytree(saved_model(), folder))
