"""The fixed training set that a trainer draws from."""

from dataclasses import dataclass
from typing import Literal

import torch

from edgekd.artifact import Artifact
from edgekd.errors import UsageError
from edgekd.models.evaluate import load_array


@dataclass(frozen=True)
class Examples:
    """A fixed training set in V views.

    inputs: float32, or token ids, int32, shape (V, N, ...), V versions of each sample.
    labels: class indices, int64, shape (N,); of a multi-label task 0 and 1, int64, (N, classes); both -1 where there is
    none. Of a regression float32, (N, outputs), NaN where there is none.
    teacher: the teacher's outputs for every view, float32, shape (V, N, outputs), or None.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    teacher: torch.Tensor | None = None


def load_examples(
    data: Artifact, outputs: Artifact | None = None, split: Literal["train", "validation"] = "train"
) -> Examples:
    """A split of a prepared data artifact, with the teacher's cached outputs if given, mapped from the files.

    Validation has one view. Raises UsageError if the outputs were made for another number of views or samples.
    """
    inputs = load_array(data.file(f"{split}_inputs.npy"))
    teacher = None if outputs is None else load_array(outputs.file(f"{split}.npy"))
    if split == "validation":
        inputs, teacher = inputs[None], None if teacher is None else teacher[None]
    if teacher is not None and teacher.shape[:2] != inputs.shape[:2]:
        raise UsageError(f"teacher outputs are for {tuple(teacher.shape[:2])} samples, not {tuple(inputs.shape[:2])}")
    return Examples(inputs, load_array(data.file(f"{split}_labels.npy")), teacher)


def load_validation(data: Artifact, outputs: Artifact | None = None) -> Examples | None:
    """The validation split, with the teacher's cached outputs if given; None where the data has none."""
    return load_examples(data, outputs, "validation") if "validation_inputs.npy" in data.files else None
