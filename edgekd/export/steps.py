"""The steps that write a model in a target's format."""

from pathlib import Path

from edgekd.artifact import Facts
from edgekd.compress.steps import restore_program
from edgekd.errors import ExportError
from edgekd.export.formats import export_float, export_program
from edgekd.models.build import example_input, load_module
from edgekd.seeding import deterministic
from edgekd.step import Work
from edgekd.step_configs import ExportConfig


def export_quantized(work: Work[ExportConfig]) -> Facts:
    """Write the quantized program. File: the model."""
    deterministic(work.seed)
    program = restore_program(work.inputs["program"])
    raw_pixels = work.inputs["data"].facts["preprocessing"]["input"] == "raw pixels"
    return _file_facts(export_program(program, work.config.format, work.out, raw_pixels))


def export_student(work: Work[ExportConfig]) -> Facts:
    """Write the float student, for comparison. File: the model."""
    return _file_facts(_export_float(work, "student"))


def export_teacher(work: Work[ExportConfig]) -> Facts:
    """Write the teacher, for comparison. File: the model, or none where the converter refuses it: the facts say why."""
    try:
        return _file_facts(_export_float(work, "teacher"))
    except ExportError as error:
        return {"file": None, "why": str(error)}


def _export_float(work: Work[ExportConfig], role: str) -> Path:
    deterministic(work.seed)
    module, architecture = load_module(work.inputs[role].path, role)
    return export_float(module, example_input(architecture), work.config.format, work.out)


def _file_facts(file: Path) -> Facts:
    """`bytes` counts all files of the model."""
    parts = [part.name for part in sorted(file.parent.iterdir())]
    return {"file": file.name, "files": parts, "bytes": sum((file.parent / part).stat().st_size for part in parts)}
