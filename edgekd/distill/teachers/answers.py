"""From what a model says to logits in the order of the data's classes; whatever does not fit is refused."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekd.distill.config import Outputs
from edgekd.distill.teacher_config import Written
from edgekd.distill.teachers.samples import Batch, Samples
from edgekd.errors import EdgekdError, GateError, UsageError, first_line
from edgekd.references import call
from edgekd.tasks.probabilities import logits_of

Answer = Callable[[Batch], np.ndarray]
"""A teacher: to a batch of n samples float32 (n, outputs), logits or the numbers of a regression, in the order of the
data's classes. Raises UsageError for whatever keeps it from that, GateError for outputs that are not finite."""

SMALLEST = 1e-6
"""A probability counts as at least this, and at most 1 less this where it stands alone: its logarithm is finite."""
TOLERANCE = 1e-2
"""How far the probabilities of a sample may be off 1 together: those of an int8 model are coarse."""
FLOAT_TOLERANCE = 1e-3
TELLING = 8
"""Numbers between 0 and 1 that many samples must have before they are taken for probabilities."""


@dataclass(frozen=True)
class Source:
    """A model that only answers.

    numbers: what it says to a batch, shape (n, its outputs). name: what messages call it. labels: class names in its
    own order, or none. written: what its numbers are, or None where nothing tells. params: how many parameters it has,
    or None where nobody knows.
    """

    numbers: Callable[[Batch], np.ndarray]
    name: str
    labels: Sequence[str] = ()
    written: Written | None = None
    params: int | None = None


def given_to(preprocess: str | None) -> Callable[[Batch], Any]:
    """What a model is given for a batch: what the user's function makes of the raw samples, else the inputs."""
    if preprocess is None:
        return lambda batch: batch.inputs
    return lambda batch: call(preprocess, "", batch.raw, args={})


def answering(source: Source, samples: Samples) -> Answer:
    """The teacher that a model is. Raises UsageError if its classes are not those of the data."""
    order = in_order(source.labels, samples.labels, source.name)
    if source.written == "probabilities" and samples.outputs == "regression":
        raise UsageError(f"{source.name}: a regression has numbers, not probabilities; leave out 'outputs'")

    def answer(batch: Batch) -> np.ndarray:
        numbers = checked(_asked(source, batch), batch, source, samples.labels)
        return as_logits(numbers[:, order], source, samples.outputs, batch)

    return answer


def _asked(source: Source, batch: Batch) -> Any:
    """Its numbers; a model that fails may do so in any way that its framework or its author thought of."""
    try:
        return source.numbers(batch)
    except EdgekdError:
        raise
    except Exception as error:
        raise UsageError(f"{source.name}: it fails on {batch}: {type(error).__name__}: {first_line(error)}") from error


def in_order(own: Sequence[str], wanted: Sequence[str], name: str) -> list[int]:
    """For each wanted class its place in the model's own order; as it is where that has no names.

    Raises UsageError, with both lists, if they do not name the same classes.
    """
    if not own:
        return list(range(len(wanted)))
    if sorted(own) != sorted(wanted):
        raise UsageError(
            f"{name}: its classes ({', '.join(own)}) are not those of the data ({', '.join(wanted)}); give them as "
            "'labels', in the order of its outputs and by the data's names"
        )
    return [list(own).index(label) for label in wanted]


def checked(numbers: Any, batch: Batch, source: Source, wanted: Sequence[str]) -> np.ndarray:
    """The numbers as float32, one row a sample and one column a class, all finite."""
    numbers = np.asarray(numbers)
    if numbers.ndim != 2 or len(numbers) != len(batch) or numbers.dtype.kind not in "fiu":
        raise UsageError(
            f"{source.name}: it answers {numbers.dtype} of shape {numbers.shape} to {len(batch)} samples; "
            f"{(len(batch), len(wanted))} is wanted"
        )
    if numbers.shape[1] != len(wanted):
        raise UsageError(
            f"{source.name}: it has {numbers.shape[1]} outputs, the data has {len(wanted)} classes "
            f"({', '.join(wanted)})"
        )
    with np.errstate(over="ignore"):
        answers: np.ndarray = numbers.astype(np.float32)
    if (wrong := np.flatnonzero(~np.isfinite(answers).all(axis=1))).size:
        raise GateError(f"{source.name}: its outputs for {batch.name(int(wrong[0]))} are not finite; check its weights")
    return answers


def as_logits(numbers: np.ndarray, source: Source, outputs: Outputs, batch: Batch) -> np.ndarray:
    """Logits stay; probabilities become their logarithms, or for each label by itself log(p / (1 - p)).

    Raises UsageError for probabilities that are none, and for logits that seem to be probabilities and nothing tells.
    """
    if outputs == "regression":
        return numbers
    exclusive = outputs == "classification"
    if source.written == "probabilities":
        if (bad := np.flatnonzero(~are_probabilities(numbers, exclusive, TOLERANCE))).size:
            raise UsageError(
                f"{source.name}: its outputs for {batch.name(int(bad[0]))} are no probabilities "
                f'({", ".join(f"{number:g}" for number in numbers[bad[0]][:4])}, ...); is outputs = "logits" meant?'
            )
        return logits_of(numbers, outputs, SMALLEST).astype(np.float32)
    told = source.written is not None or not (exclusive or len(batch) >= TELLING)
    if not told and are_probabilities(numbers, exclusive, FLOAT_TOLERANCE).all():
        raise UsageError(
            f'{source.name}: its outputs look like probabilities; add outputs = "probabilities", or "logits" if they '
            "are none"
        )
    return numbers


def are_probabilities(numbers: np.ndarray, exclusive: bool, tolerance: float) -> np.ndarray:
    """Which rows could be: all within 0 and 1, and of classes that exclude each other 1 together."""
    possible = np.asarray(((numbers >= -tolerance) & (numbers <= 1 + tolerance)).all(axis=1))
    return possible & (abs(numbers.sum(axis=1) - 1) <= tolerance) if exclusive else possible
