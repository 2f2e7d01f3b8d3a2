"""OpenVINO IR (.xml and .bin), converted from an ONNX file of the same program."""

from pathlib import Path
from typing import Any

from edgekd.errors import ExportError, first_line
from edgekd.export.card import Card
from edgekd.quiet import quiet


def convert(onnx_file: Path, file: Path, half: bool, card: Card) -> None:
    """Write `file` (.xml) and its .bin beside it; float constants keep their precision, or are halved.

    Raises ExportError with the converter's reason.
    """
    try:
        with quiet():
            import openvino

            model = openvino.convert_model(str(onnx_file))
            _name_layers(model)
            for name, text in card.properties().items():
                model.set_rt_info(text, name.split("."))
            openvino.save_model(model, str(file), compress_to_fp16=half)
    except Exception as error:
        for part in (file, file.with_suffix(".bin")):
            part.unlink(missing_ok=True)
        raise ExportError(f"OpenVINO export: the converter refused the model: {first_line(error)}") from error


def _name_layers(model: Any) -> None:
    """Number the layers by their place: the converter counts across all models of a process."""
    ends = {*(port.get_node() for port in model.inputs), *model.get_results()}
    for position, layer in enumerate(model.get_ordered_ops()):
        if layer not in ends:
            layer.set_friendly_name(f"{layer.get_type_name()}_{position}")
