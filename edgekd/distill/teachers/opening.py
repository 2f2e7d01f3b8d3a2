"""From the table of a teacher to what answers for it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from edgekd.distill.teacher_config import (
    Command,
    Endpoint,
    Ensemble,
    KerasModel,
    Model,
    OnnxFile,
    StoredOutputs,
    TFLiteFile,
    TorchModule,
    TransformersFolder,
)
from edgekd.distill.teachers.answers import Answer, Source, answering
from edgekd.distill.teachers.ensemble import averaged
from edgekd.distill.teachers.samples import Samples
from edgekd.recipe import Teacher, TorchTeacher

NAME = "teacher"


@contextmanager
def opened(teacher: Teacher, samples: Samples, trained: Path | None = None) -> Iterator[tuple[Answer, int | None]]:
    """A teacher that answers while the context lasts, and its number of parameters, or None where nobody knows it.

    trained: where the step that trains a torch module left it; needed for such a one alone.
    Raises UsageError if it cannot be opened, or if its classes are not those of the data.
    """
    with ExitStack() as closing:
        if isinstance(teacher, TorchTeacher):
            from edgekd.distill.teachers.torch_module import open_trained

            assert trained is not None, "a torch teacher is opened from where its step left it"
            source = open_trained(trained, NAME)
            yield answering(source, samples), source.params
        elif isinstance(teacher, Ensemble):
            sources = [
                _open(member, samples, f"{NAME}.members.{place}", closing)
                for place, member in enumerate(teacher.members)
            ]
            answers = [answering(source, samples) for source in sources]
            yield averaged(answers, teacher.weights, teacher.mean, samples.outputs), _sum(sources)
        else:
            source = _open(teacher, samples, NAME, closing)
            yield answering(source, samples), source.params


def _open(model: Model, samples: Samples, name: str, closing: ExitStack) -> Source:
    """Each kind has a module, which is imported here: what it needs is heavy, and may not be installed."""
    match model:
        case TorchModule():
            from edgekd.distill.teachers.torch_module import open_module

            return open_module(model, samples, name)
        case TransformersFolder():
            from edgekd.distill.teachers.transformers import open_folder

            return open_folder(model, samples, name)
        case OnnxFile() | TFLiteFile():
            from edgekd.distill.teachers.runtime_file import open_file

            return open_file(model, name)
        case KerasModel():
            from edgekd.distill.teachers.keras import open_model

            return open_model(model, name)
        case Command():
            from edgekd.distill.teachers.command import started

            return closing.enter_context(started(model, samples, name))
        case Endpoint():
            from edgekd.distill.teachers.http import endpoint

            return endpoint(model, samples, name)
        case StoredOutputs():
            from edgekd.distill.teachers.stored import open_stored

            return open_stored(model, samples, name)


def _sum(sources: list[Source]) -> int | None:
    counts = [source.params for source in sources if source.params is not None]
    return sum(counts) if len(counts) == len(sources) else None
