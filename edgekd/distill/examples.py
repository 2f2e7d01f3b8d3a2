"""The fixed training set that a trainer draws from."""

from dataclasses import dataclass

import torch

from edgekd.artifact import Artifact
from edgekd.errors import UsageError
from edgekd.models.evaluate import load_array


@dataclass(frozen=True)
class Examples:
    """A fixed training set in V views.

    inputs: float32, shape (V, N, ...), V versions of each sample. labels: int64, shape (N,).
    teacher: the teacher's logits for every view, float32, shape (V, N, classes), or None.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    teacher: torch.Tensor | None = None


def load_examples(data: Artifact, outputs: Artifact | None = None) -> Examples:
    """The training set of a prepared data artifact, with the teacher's cached outputs if given.

    Raises UsageError if the outputs were made for another number of views or samples.
    """
    inputs = load_array(data.file("train_inputs.npy"))
    teacher = None if outputs is None else load_array(outputs.file("train.npy"))
    if teacher is not None and teacher.shape[:2] != inputs.shape[:2]:
        raise UsageError(f"teacher outputs are for {tuple(teacher.shape[:2])} samples, not {tuple(inputs.shape[:2])}")
    return Examples(inputs, load_array(data.file("train_labels.npy")), teacher)
