"""ORT-format files for ONNX Runtime Mobile, converted from an ONNX file of the same program.

The style is Fixed at the extended level: the file holds integer kernels, as operations that NNAPI knows too, and the
runtime itself changes their layout for the CPU. With Runtime style the convolutions stay float (up to 4 times slower
on x86), and the level above writes layout changes into the file and a convolution that no accelerator takes.
"""

import tempfile
from pathlib import Path

from edgekd.errors import ExportError, first_line
from edgekd.quiet import quiet

OPERATORS_FILE = "required_operators.config"
SETTINGS = {
    "session.save_model_format": "ORT",
    "session.qdqisint8allowed": "1",  # what the runtime's own converter sets for ARM: int8 stays int8
    "session.disable_double_qdq_remover": "1",  # it would put one scale in the place of two learned ones
}
UNPORTABLE = ["NchwcTransformer"]
"""Optimisers that write what only an x86 processor can run."""


def convert(onnx_file: Path, file: Path) -> None:
    """Write `file` (.ort), and beside it required_operators.config: what a reduced build of the runtime must include.

    The configuration lists types as well, and what the runtime puts in when it changes the layout.
    Raises ExportError with the converter's reason.
    """
    try:
        with quiet(), tempfile.TemporaryDirectory(prefix="edgekd-") as place:
            models = [Path(place) / "extended.ort", Path(place) / "all.ort"]
            for model in models:
                _optimise(onnx_file, model, model.stem)
            operators = _operators(models, Path(place) / "operators.config")
            from edgekd.export.ort_pack import pack

            content = pack(models[0].read_bytes())
            _load(content)
        file.write_bytes(content)
        (file.parent / OPERATORS_FILE).write_text(operators)
    except Exception as error:
        for part in (file, file.parent / OPERATORS_FILE):
            part.unlink(missing_ok=True)
        raise ExportError(f"ORT export: onnxruntime refused the model: {first_line(error)}") from error


def _optimise(onnx_file: Path, file: Path, level: str) -> None:
    """Save what the runtime makes of a model on the CPU, optimised to a level."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level.upper()}")
    options.optimized_model_filepath = str(file)
    for name, value in SETTINGS.items():
        options.add_session_config_entry(name, value)
    providers = ["CPUExecutionProvider"]
    onnxruntime.InferenceSession(str(onnx_file), options, providers=providers, disabled_optimizers=UNPORTABLE)


def _operators(models: list[Path], place: Path) -> str:
    """The operators and types that these models need, without the places where they lie."""
    from onnxruntime.tools.ort_format_model import create_config_from_models

    create_config_from_models(models, place, True)
    lines = [line for line in place.read_text().splitlines() if not line.startswith("#")]
    return "\n".join(["# What the model needs of ONNX Runtime: for its build, --include_ops_by_config.", *lines, ""])


def _load(content: bytes) -> None:
    """Open a packed model once, so that none is written that the runtime refuses."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
