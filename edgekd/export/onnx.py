"""ONNX files by torch.export and torch's own exporter, quantizers as QuantizeLinear and DequantizeLinear."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgekd.compress.fold import trace
from edgekd.errors import ExportError
from edgekd.export.blame import refusal
from edgekd.export.card import Card
from edgekd.export.int4 import fits, packed
from edgekd.quiet import quiet
from edgekd.target import Precision

MATRIX, IMAGE = 2, 4
OPSET, OPSET_OF_INT4 = 20, 21
SMALLEST_INT4 = 256
"""Numbers; a smaller weight of 4 bits saves less than its Cast takes."""


def export(
    model: nn.Module, example: torch.Tensor, file: Path, precision: Precision, card: Card, int4: bool = False
) -> None:
    """Write a float model, or a program with stored weights and uint8 activations (`frozen(stored=True,
    unsigned=True)`): batch 1, channels first, all data inside the file, float output.

    A full-integer model of raw pixels takes them as they are: uint8. int4: store weights of 4 bits as such, which needs
    opset 21. Raises ExportError with the exporter's reason.
    """
    program = trace(model, example)
    try:
        with quiet(), torch.no_grad():
            import onnx

            opset = OPSET_OF_INT4 if int4 else OPSET
            torch.onnx.export(
                program, (example,), file, dynamo=True, external_data=False, verbose=False, opset_version=opset
            )
            content = onnx.load(str(file))
    except Exception as error:
        file.unlink(missing_ok=True)
        raise ExportError(f"ONNX export: torch.onnx refused the model: {refusal(error, program)}") from error
    content = _tidied(content)
    _drop_empty_pads(content)
    _pool_means(content)
    _drop_saturated_relus(content)
    _turn_weights(content)
    _turn_keys(content)
    if int4:
        _pack(content)
    if precision == "int8" and card.pixels is not None:
        _take_integers(content)
    if precision == "float16":
        _halve(content)
    _name_ends(content)
    onnx.helper.set_model_props(content, card.properties())
    onnx.checker.check_model(content, full_check=True)
    onnx.save(content, str(file))


def _take_integers(model: Any) -> None:
    """Make what the input's QuantizeLinear gave the input itself."""
    from onnx import TensorProto

    graph = model.graph
    source = graph.input[0]
    quantize = next(node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == source.name)
    for node in graph.node:
        node.input[:] = [source.name if name == quantize.output[0] else name for name in node.input]
    graph.node.remove(quantize)
    source.type.tensor_type.elem_type = TensorProto.UINT8


def _name_ends(model: Any) -> None:
    """Call the input `input` and the output `output`."""
    graph = model.graph
    names = {graph.input[0].name: "input", graph.output[0].name: "output"}
    graph.input[0].name, graph.output[0].name = "input", "output"
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def _drop_empty_pads(model: Any) -> None:
    """Take out each Pad by nothing, which is what a model that finds its padding from a layer's kernel has before 1x1
    convolutions.
    """
    graph, constants = model.graph, _constants(model)
    ends = {end.name for end in graph.output}
    for pad in [node for node in graph.node if node.op_type == "Pad" and node.output[0] not in ends]:
        if pad.input[1] in constants and not constants[pad.input[1]].any():
            for node in graph.node:
                node.input[:] = [pad.input[0] if name == pad.output[0] else name for name in node.input]
            graph.node.remove(pad)


def _drop_saturated_relus(model: Any) -> None:
    """Take out each Relu whose only user is a QuantizeLinear with the smallest number as zero point: that one cuts off
    the same values, and a Relu between them keeps ONNX Runtime from fusing a matrix product with it.
    """
    graph = model.graph
    constants = _constants(model)
    for relu in [node for node in graph.node if node.op_type == "Relu"]:
        users = [node for node in graph.node if relu.output[0] in node.input]
        if len(users) == 1 and users[0].op_type == "QuantizeLinear" and constants[users[0].input[2]] == 0:
            users[0].input[0] = relu.input[0]
            graph.node.remove(relu)


def _pool_means(model: Any) -> None:
    """Say the mean over height and width as a GlobalAveragePool, which ONNX Runtime has an integer kernel for."""
    from onnx import helper, shape_inference

    graph, constants = model.graph, _constants(model)
    known = shape_inference.infer_shapes(model).graph.value_info
    dimensions = {entry.name: len(entry.type.tensor_type.shape.dim) for entry in known}
    for position, mean in enumerate(graph.node):
        if mean.op_type != "ReduceMean" or len(mean.input) < 2 or dimensions.get(mean.input[0]) != IMAGE:
            continue
        axes = sorted(axis % IMAGE for axis in constants.get(mean.input[1], ()))
        if axes == [2, 3] and all(attribute.i for attribute in mean.attribute if attribute.name == "keepdims"):
            graph.node.remove(mean)
            graph.node.insert(position, helper.make_node("GlobalAveragePool", mean.input[:1], mean.output))
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def _turn_weights(model: Any) -> None:
    """Store a weight the way it is multiplied, where the exporter left a Transpose behind its DequantizeLinear."""
    from onnx import numpy_helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    for turn in [node for node in graph.node if node.op_type == "Transpose"]:
        dequantize = makers.get(turn.input[0])
        if dequantize is None or dequantize.op_type != "DequantizeLinear" or dequantize.input[0] not in constants:
            continue
        weight = constants[dequantize.input[0]]
        if len(weight.dims) != MATRIX or sum(dequantize.output[0] in node.input for node in graph.node) > 1:
            continue
        turned = numpy_helper.from_array(numpy_helper.to_array(weight).T.copy(), weight.name)
        weight.CopyFrom(turned)
        for attribute in dequantize.attribute:
            if attribute.name == "axis":
                attribute.i = 1 - attribute.i
        dequantize.output[0] = turn.output[0]
        graph.node.remove(turn)


def _turn_keys(model: Any) -> None:
    """Turn the keys of attention in one Transpose, where the exporter makes them three-dimensional for it: a runtime
    that has an operation for attention turns them back.
    """
    from onnx import shape_inference

    graph = model.graph
    known = shape_inference.infer_shapes(model).graph.value_info
    shapes = {entry.name: [side.dim_value for side in entry.type.tensor_type.shape.dim] for entry in known}
    makers = {node.output[0]: node for node in graph.node}
    for turn in [node for node in graph.node if node.op_type == "Transpose"]:
        flat, users = makers.get(turn.input[0]), [node for node in graph.node if turn.output[0] in node.input]
        if flat is None or [flat.op_type, *(user.op_type for user in users)] != ["Reshape", "Reshape"]:
            continue
        before, after = shapes.get(flat.input[0], []), shapes.get(users[0].output[0], [])
        order = list(turn.attribute[0].ints)
        if order == [0, 2, 1] and len(before) == IMAGE and after == [*before[:2], before[3], before[2]]:
            turn.attribute[0].ints[:] = [0, 1, 3, 2]
            turn.input[0], turn.output[0] = flat.input[0], users[0].output[0]
            graph.node.remove(users[0])
            if not any(flat.output[0] in node.input for node in graph.node):
                graph.node.remove(flat)


def _halve(model: Any) -> None:
    """Keep weights in half precision with a Cast behind each, which a runtime does once, when it loads the file.

    One that float16 cannot hold (beyond 65,504) stays as it is.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < MATRIX:
            continue
        name = tensor.name
        with np.errstate(over="ignore"):
            halves = numpy_helper.to_array(tensor).astype(np.float16)
        if not np.isfinite(halves).all():
            continue
        tensor.CopyFrom(numpy_helper.from_array(halves, f"{name}.half"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *nodes])


def _pack(model: Any) -> None:
    """Keep weights whose numbers have 4 bits in 4, with a Cast to int8 behind each.

    A runtime does it once, when it loads the file, and fuses as before; what takes INT4 itself, ONNX Runtime computes
    in float.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    weights = {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    for tensor in graph.initializer:
        numbers = numpy_helper.to_array(tensor)
        is_weight = tensor.name in weights and tensor.data_type == TensorProto.INT8
        if not is_weight or numbers.size < SMALLEST_INT4 or not fits(numbers):
            continue
        name, content = tensor.name, packed(numbers).tobytes()
        tensor.CopyFrom(helper.make_tensor(f"{name}.int4", TensorProto.INT4, tensor.dims, content, raw=True))
        graph.node.insert(0, helper.make_node("Cast", [tensor.name], [name], to=TensorProto.INT8))


def _constants(model: Any) -> dict[str, Any]:
    from onnx import numpy_helper

    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _tidied(model: Any) -> Any:
    """The same graph without what no runtime reads: the exporter's notes, node names, shapes of inner tensors."""
    del model.metadata_props[:]
    model.graph.ClearField("value_info")
    del model.graph.metadata_props[:]
    for node in model.graph.node:
        node.ClearField("doc_string")
        node.ClearField("name")
        del node.metadata_props[:]
    for tensor in model.graph.initializer:
        tensor.ClearField("doc_string")
    model.ClearField("functions")
    return model
