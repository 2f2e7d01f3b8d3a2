"""OpenVINO IR (.xml and .bin), converted from an ONNX file of the same program."""

from pathlib import Path

from edgekd.errors import ExportError, first_line
from edgekd.quiet import quiet


def convert(onnx_file: Path, file: Path) -> None:
    """Write `file` (.xml) and its .bin beside it; constants keep their precision.

    Raises ExportError with the converter's reason.
    """
    try:
        with quiet():
            import openvino

            openvino.save_model(openvino.convert_model(str(onnx_file)), str(file), compress_to_fp16=False)
    except Exception as error:
        for part in (file, file.with_suffix(".bin")):
            part.unlink(missing_ok=True)
        raise ExportError(f"OpenVINO export: the converter refused the model: {first_line(error)}") from error
