"""The steps that write a model in a target's format."""

from pathlib import Path

from edgekd.artifact import Artifact, Facts
from edgekd.compress.steps import restore_program
from edgekd.errors import ExportError
from edgekd.export.card import Card, output_of
from edgekd.export.formats import export_float, export_program
from edgekd.models.build import example_input, load_module
from edgekd.seeding import deterministic
from edgekd.step import Work
from edgekd.step_configs import ExportConfig

FOR_READERS = "steps"
"""What the preprocessing says in words; the app needs the numbers."""


def export_quantized(work: Work[ExportConfig]) -> Facts:
    """Write the quantized program. File: the model."""
    deterministic(work.seed)
    program, config = restore_program(work.inputs["program"]), work.config
    return _file_facts(export_program(program, config.format, config.precision, work.out, _card(work), config.int4))


def export_student(work: Work[ExportConfig]) -> Facts:
    """Write the float student. File: the model."""
    return _file_facts(_export_float(work, "student"))


def export_teacher(work: Work[ExportConfig]) -> Facts:
    """Write the teacher, for comparison. File: the model, or none where the converter refuses it: the facts say why."""
    try:
        return _file_facts(_export_float(work, "teacher"))
    except ExportError as error:
        return {"file": None, "why": str(error)}


def model_file(artifact: Artifact) -> Path:
    """The file of an exported model; for Core ML, its folder."""
    return artifact.path / str(artifact.facts["file"])


def _export_float(work: Work[ExportConfig], role: str) -> Path:
    deterministic(work.seed)
    module, architecture = load_module(work.inputs[role].path, role)
    config = work.config
    return export_float(module, example_input(architecture), config.format, config.precision, work.out, _card(work))


def _card(work: Work[ExportConfig]) -> Card:
    facts = work.inputs["data"].facts
    preprocessing = {name: value for name, value in facts["preprocessing"].items() if name != FOR_READERS}
    output = output_of(work.config.output, facts["outputs"])
    return Card(work.config.name, tuple(facts["labels"]), output, preprocessing, facts["outputs"])


def _file_facts(file: Path) -> Facts:
    """`bytes` counts all files of the model."""
    folder = file.parent
    parts = [part.relative_to(folder).as_posix() for part in sorted(folder.rglob("*")) if part.is_file()]
    return {"file": file.name, "files": parts, "bytes": sum((folder / part).stat().st_size for part in parts)}
