"""OpenVINO IR (.xml and .bin), converted from an ONNX file of the same program."""

import re
from pathlib import Path
from typing import Any

from edgekd.errors import ExportError, first_line
from edgekd.export.card import Card
from edgekd.export.int4 import fits, packed
from edgekd.quiet import quiet

SMALLEST_INT4 = 1024
"""Numbers; a smaller weight of 4 bits saves less than its Convert takes in the XML."""


def convert(onnx_file: Path, file: Path, half: bool, card: Card, int4: bool = False) -> None:
    """Write `file` (.xml) and its .bin beside it; float constants keep their precision, or are halved. int4: weights of
    4 bits are stored as such.

    Raises ExportError with the converter's reason.
    """
    try:
        with quiet():
            import openvino

            model = openvino.convert_model(str(onnx_file))
            _keep_row_scales(model, onnx_file)
            _drop_zero_points(model)
            _share_constants(model)
            if int4:
                _pack(model)
            _name_layers(model)
            for name, text in card.properties().items():
                model.set_rt_info(text, name.split("."))
            openvino.save_model(model, str(file), compress_to_fp16=half)
            file.write_text(re.sub(r">\s+<", "><", file.read_text(encoding="utf-8")), encoding="utf-8")
    except Exception as error:
        for part in (file, file.with_suffix(".bin")):
            part.unlink(missing_ok=True)
        raise ExportError(f"OpenVINO export: the converter refused the model: {first_line(error)}") from error


def _keep_row_scales(model: Any, onnx_file: Path) -> None:
    """Dequantize looked-up rows by the table's scale: the converter works it into the range of a quantizer behind."""
    import onnx
    from onnx import numpy_helper
    from openvino import opset13

    graph = onnx.load(str(onnx_file)).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    scales = {
        node.input[0]: numpy_helper.to_array(constants[node.input[1]])
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[1] in constants
    }
    lookups = [layer for layer in model.get_ordered_ops() if layer.get_type_name() == "Gather"]
    for lookup in (layer for layer in lookups if layer.get_friendly_name() in scales):
        for rows in _users(lookup):
            for quantize in (user for user in _users(rows) if user.get_type_name() == "FakeQuantize"):
                scaled = opset13.multiply(rows, opset13.constant(scales[lookup.get_friendly_name()]))
                quantize.input(0).replace_source_output(scaled.output(0))
                for end in (1, 2):
                    quantize.input(end).replace_source_output(quantize.input_value(end + 2))


def _drop_zero_points(model: Any) -> None:
    """Subtract no zeros from stored weights. The converter leaves a zero point out by itself, but not one that layers
    share in two shapes, a matrix product and a convolution say; and the runtime computes in float what has one.
    """
    for subtract in (layer for layer in model.get_ordered_ops() if layer.get_type_name() == "Subtract"):
        subtracted = subtract.input_value(1).get_node()
        while subtracted.get_type_name() in ("Convert", "Reshape"):
            subtracted = subtracted.input_value(0).get_node()
        if subtracted.get_type_name() == "Constant" and not subtracted.data.any():
            subtract.output(0).replace(subtract.input_value(0))


def _users(layer: Any) -> list[Any]:
    return [port.get_node() for port in layer.output(0).get_target_inputs()]


def _share_constants(model: Any) -> None:
    """Keep one constant per content, the ends of a range as plain numbers: each is a layer of its own in the XML."""
    from openvino import op

    kept: dict[tuple[str, tuple[int, ...], bytes], Any] = {}
    for constant in model.get_ordered_ops():
        if constant.get_type_name() != "Constant":
            continue
        users, data = constant.output(0).get_target_inputs(), constant.data
        is_end = data.size == 1 and all(user.get_node().get_type_name() == "FakeQuantize" for user in users)
        shape = () if is_end else data.shape
        key = (constant.get_element_type().get_type_name(), shape, data.tobytes())
        if key not in kept:
            kept[key] = constant if shape == data.shape else op.Constant(data.reshape(shape))
        if kept[key] is not constant:
            for user in users:
                user.replace_source_output(kept[key].output(0))


def _pack(model: Any) -> None:
    """Keep weights whose numbers have 4 bits in 4, with a Convert to int8 behind each: the runtime does it once, when
    it loads the file. What takes i4 itself it computes in float.
    """
    from openvino import Shape, Tensor, Type, op, opset13

    for constant in model.get_ordered_ops():
        if constant.get_type_name() != "Constant" or constant.get_element_type() != Type.i8:
            continue
        users = constant.output(0).get_target_inputs()
        converted = all(user.get_node().get_type_name() == "Convert" for user in users)
        if not converted or constant.data.size < SMALLEST_INT4 or not fits(constant.data):
            continue
        halves = Tensor(packed(constant.data), Shape(constant.data.shape), Type.i4)
        stored = opset13.convert(op.Constant(halves, shared_memory=False), "i8")
        for user in users:
            user.replace_source_output(stored.output(0))


def _name_layers(model: Any) -> None:
    """Number the layers by their place: the converter counts across all models of a process."""
    ends = {*(port.get_node() for port in model.inputs), *model.get_results()}
    for position, layer in enumerate(model.get_ordered_ops()):
        if layer not in ends:
            layer.set_friendly_name(f"{layer.get_type_name()}_{position}")
