"""Models whose answers are known without a runtime: the first input less the second."""

from pathlib import Path

import flatbuffers
import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper

SHAPE = (1, 5)


def difference_onnx(folder: Path, batch: int | str = 1) -> Path:
    shape = [batch, *SHAPE[1:]]
    ends = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("a", "b", "less")}
    graph = helper.make_graph(
        [helper.make_node("Sub", ["a", "b"], ["less"])], "g", [ends["a"], ends["b"]], [ends["less"]]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(folder / "less.onnx"))
    return folder / "less.onnx"


def difference_tflite(folder: Path, open_batch: bool = False) -> Path:
    """With a signature that has the inputs in another order than the graph; open_batch: the first side is left open,
    as TensorFlow's converter does it.
    """
    tensors = [_tensor(name) for name in ("a", "b", "less")]
    for tensor in tensors if open_batch else []:
        tensor.shapeSignature = [-1, *SHAPE[1:]]
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0, 1], [2]
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.SubOptions, schema.SubOptionsT()
    graph = schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = tensors, [0, 1], [2], [operator]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.SUB
    code.version = 1
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
    signature.inputs, signature.outputs = [_named("b", 1), _named("a", 0)], [_named("less", 2)]
    model = schema.ModelT()
    model.version, model.subgraphs, model.operatorCodes = 3, [graph], [code]
    model.buffers, model.signatureDefs = [schema.BufferT()], [signature]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    (folder / "less.tflite").write_bytes(builder.Output())
    return folder / "less.tflite"


def numbers(folder: Path, name: str, samples: int, seed: int) -> np.ndarray:
    """Samples in a file of that name, shape (samples, 5)."""
    values = np.random.default_rng(seed).normal(size=(samples, SHAPE[1])).astype(np.float32)
    values.tofile(folder / name)
    return values


def _tensor(name: str) -> schema.TensorT:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name.encode(), list(SHAPE), schema.TensorType.FLOAT32, 0
    return tensor


def _named(name: str, index: int) -> schema.TensorMapT:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name.encode(), index
    return entry
