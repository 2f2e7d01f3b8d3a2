"""What the labels of each kind of output must be, which of them are missing, and what they say nothing about."""

from collections.abc import Sequence

import numpy as np

from edgekd.distill.config import Outputs
from edgekd.errors import UsageError
from edgekd.tasks.dataset import Dataset, Split

UNLABELLED = -1
FEWEST: dict[Outputs, int] = {"classification": 2, "multi-label": 2, "regression": 1}
WANTED: dict[Outputs, str] = {
    "classification": "one integer label per sample",
    "multi-label": "0 or 1 for each of the {count} labels of a sample",
    "regression": "a number for each of the {count} outputs of a sample",
}
DTYPES: dict[Outputs, tuple[tuple[type, ...], str]] = {
    "classification": ((np.integer,), "integer class indices"),
    "multi-label": ((np.integer, np.bool_), "integers of 0 and 1"),
    "regression": ((np.floating, np.integer), "numbers"),
}


def known(labels: np.ndarray) -> np.ndarray:
    """Which entries are labelled, neither -1 nor NaN: a mask of the same shape."""
    missing: np.ndarray = np.isnan(labels) if np.issubdtype(labels.dtype, np.floating) else labels == UNLABELLED
    return ~missing


def known_in_full(labels: np.ndarray) -> np.ndarray:
    """Which samples have all of their labels: a mask, (N,)."""
    rows: np.ndarray = np.all(known(labels).reshape(len(labels), -1), axis=1)
    return rows


def as_labels(labels: np.ndarray, outputs: Outputs) -> np.ndarray:
    """Labels as they are stored: int64, for a regression float32."""
    return np.asarray(labels, dtype=np.float32 if outputs == "regression" else np.int64)


def check_labels(data: Dataset, outputs: Outputs) -> None:
    """Refuse splits that are empty, of one class or one value; labels of another shape or out of range; labels that
    are missing outside the training split; classes that nothing tells about.

    A class needs a labelled training sample only where all samples are labelled: else the unlabelled ones may be of
    it, and a teacher that knows it says so. What learns from labels alone is held to `check_taught`.

    Raises UsageError, naming the split and the first sample, or the class, at fault.
    """
    count = len(data.labels)
    if count < FEWEST[outputs]:
        what = "class named; classification" if outputs == "classification" else f"output named; {outputs}"
        raise UsageError(f"data: {count} {what} needs at least {('one', 'two')[FEWEST[outputs] - 1]}")
    for name, split in data.splits.items():
        _check_split(name, split, data.labels, outputs)
    labels = as_labels(data.train.labels, outputs)
    complete = np.broadcast_to(known(labels).all(axis=0), count)
    for place in untaught(labels, outputs, count):
        if complete[place]:
            raise UsageError(f"data: no training sample of '{data.labels[place]}'; add some, or leave it out")


def untaught(labels: np.ndarray, outputs: Outputs, count: int) -> list[int]:
    """The classes without a labelled sample, the labels that hold for none, or the numbers that none has."""
    if outputs == "classification":
        places = np.setdiff1d(np.arange(count), labels)
    else:
        taught = labels == 1 if outputs == "multi-label" else known(labels)
        places = np.flatnonzero(~taught.any(axis=0))
    return [int(place) for place in places]


def check_taught(labels: np.ndarray, outputs: Outputs, names: Sequence[str]) -> None:
    """For a model that learns from the labels alone: raises UsageError for the first class that none of them names."""
    if places := untaught(labels, outputs, len(names)):
        raise UsageError(
            f"data: no labelled training sample of '{names[places[0]]}', and no teacher that knows it; label some"
        )


def _check_split(name: str, split: Split, names: Sequence[str], outputs: Outputs) -> None:
    labels, count, samples = np.asarray(split.labels), len(names), len(split.inputs)
    if samples == 0:
        raise UsageError(f"data: the {name} split is empty")
    if labels.shape != ((samples,) if outputs == "classification" else (samples, count)):
        raise UsageError(
            f"data: {name} has {samples} samples but labels of shape {labels.shape}; "
            f"give {WANTED[outputs].format(count=count)}"
        )
    dtypes, words = DTYPES[outputs]
    if not any(np.issubdtype(labels.dtype, dtype) for dtype in dtypes):
        raise UsageError(f"data: {name} labels are {labels.dtype}; give {words}")
    labels = as_labels(labels, outputs)
    _check_values(name, split, labels, names, outputs)
    missing = np.flatnonzero(~known_in_full(labels))
    if name != "train" and missing.size:
        raise UsageError(f"data: {name} {split.name(int(missing[0]))} has no label; only training samples may lack one")
    _check_variety(name, labels, names, outputs)


def _check_values(name: str, split: Split, labels: np.ndarray, names: Sequence[str], outputs: Outputs) -> None:
    """Unlabelled entries pass here."""
    match outputs:
        case "regression":
            wrong, words = np.isinf(labels), "give finite numbers, NaN where there is none"
        case "multi-label":
            wrong = (labels < UNLABELLED) | (labels > 1)
            words = "give 1 for a label that holds, else 0, -1 where it is not known"
        case "classification":
            wrong = (labels < UNLABELLED) | (labels >= len(names))
            words = f"the {len(names)} classes are numbered 0 to {len(names) - 1}"
    if wrong.any():
        place = tuple(int(part) for part in np.argwhere(wrong)[0])
        of = f" for '{names[place[1]]}'" if len(place) > 1 else ""
        raise UsageError(f"data: {name} {split.name(place[0])} has label {labels[place]:g}{of}; {words}")


def _check_variety(name: str, labels: np.ndarray, names: Sequence[str], outputs: Outputs) -> None:
    if outputs == "classification" and (labels != UNLABELLED).all() and np.unique(labels).size == 1:
        raise UsageError(f"data: {name} holds one class only ({names[int(labels[0])]})")
    if outputs == "regression":
        constant = [place for place, column in enumerate(labels.T) if (column == column[0]).all()]
        if constant:
            raise UsageError(f"data: {name} has one value only for '{names[constant[0]]}'; give numbers that vary")
