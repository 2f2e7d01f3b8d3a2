"""The student of a recipe: how it is built for a task, and the weights that it starts from."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from edgekd.artifact import Artifact
from edgekd.models.build import Architecture, load_weights
from edgekd.recipe import Student
from edgekd.tasks.outline import Outline
from edgekd.tasks.text import TOKENIZER_FILE


def drafted(student: Student, data: Outline) -> Architecture:
    """For data that are not prepared yet. Raises UsageError if a folder of transformers does not fit them."""
    return _architecture(student, data.input_shape, len(data.labels), data.vocabulary, data.tokenizer)


def fitted(student: Student, data: Artifact) -> Architecture:
    """For prepared data."""
    facts = data.facts
    tokenizer = data.file(TOKENIZER_FILE) if TOKENIZER_FILE in data.files else None
    return _architecture(student, tuple(facts["input_shape"]), len(facts["labels"]), facts["vocabulary"], tokenizer)


def start(module: nn.Module, student: Student, architecture: Architecture, labels: Sequence[str]) -> tuple[str, ...]:
    """Fill a module with the weights that the recipe gives, if any; returns the names of those that a folder had in
    another size, which start anew.

    Raises UsageError if they do not fit.
    """
    if student.folder is not None:
        from edgekd.models.transformers_folder import load_folder

        return load_folder(module, student.folder, architecture, labels)
    if student.weights is not None:
        load_weights(module, student.weights, "student")
    return ()


def _architecture(
    student: Student, input_shape: tuple[int, ...], classes: int, vocabulary: int | None, tokenizer: Path | None
) -> Architecture:
    if student.folder is None:
        return Architecture(student.reference, student.args, input_shape, classes, vocabulary)
    from edgekd.models.transformers_folder import read_folder

    return read_folder(student.folder, input_shape, classes, vocabulary, tokenizer)
