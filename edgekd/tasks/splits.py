"""Which training samples keep their labels, and which are held out for validation: both drawn from the seed."""

import dataclasses

import numpy as np

from edgekd.distill.config import Outputs
from edgekd.errors import UsageError
from edgekd.tasks.dataset import Dataset, Split
from edgekd.tasks.labels import UNLABELLED, known, known_in_full


def arranged(data: Dataset, outputs: Outputs, labelled: float, validation: float, seed: int) -> Dataset:
    """Hide all but a share of the training labels, then hold out a share of the samples that are labelled still.

    So a validation split costs labels like any other use of them. One that the source gives stays as it is.
    Raises UsageError where nothing labelled is left to hold out or to train on.
    """
    random = np.random.default_rng([seed, 1])
    if labelled < 1:
        data = dataclasses.replace(data, train=hide_labels(data.train, outputs, labelled, random))
    if validation > 0 and data.validation is None:
        train, held_out = hold_out(data.train, outputs, validation, random)
        data = dataclasses.replace(data, train=train, validation=held_out)
    return data


def hide_labels(split: Split, outputs: Outputs, share: float, random: np.random.Generator) -> Split:
    """Keep the labels of a share of the samples that have any, in the proportions of the classes."""
    labels = np.array(split.labels)
    having = np.flatnonzero(known(labels).reshape(len(labels), -1).any(axis=1))
    kept = having[drawn(labels[having], outputs, round(share * len(having)), random)]
    labels[np.setdiff1d(having, kept)] = np.nan if outputs == "regression" else UNLABELLED
    return dataclasses.replace(split, labels=labels)


def hold_out(split: Split, outputs: Outputs, share: float, random: np.random.Generator) -> tuple[Split, Split]:
    """The samples to train on, and a share of those labelled in full, in the proportions of the classes."""
    labels = np.asarray(split.labels)
    having = np.flatnonzero(known_in_full(labels))
    count = round(share * len(having))
    if count == 0 or count == len(labels):
        raise UsageError(
            f"task.validation: {share:g} of {len(having)} labelled training samples is {count} of {len(labels)}; "
            "choose another share"
        )
    chosen = having[drawn(labels[having], outputs, count, random)]
    return _taken(split, np.setdiff1d(np.arange(len(labels)), chosen)), _taken(split, chosen)


def drawn(labels: np.ndarray, outputs: Outputs, count: int, random: np.random.Generator) -> np.ndarray:
    """The places of `count` samples, sorted; each class, or set of labels, has its share of them to within one sample.

    Samples in a random order within their class, one class after the other, every so many one is taken.
    """
    strata = np.zeros(len(labels), dtype=np.int64)
    if outputs != "regression" and len(labels):
        strata = np.unique(labels, axis=0, return_inverse=True)[1].ravel()
    order = np.lexsort((random.random(len(labels)), strata))
    places = (np.arange(count) * len(labels) + random.integers(max(len(labels), 1))) // max(count, 1)
    return np.sort(order[places])


def _taken(split: Split, places: np.ndarray) -> Split:
    inputs = split.inputs
    return Split(
        inputs=inputs[places] if isinstance(inputs, np.ndarray) else [inputs[place] for place in places],
        labels=np.asarray(split.labels)[places],
        names=[split.name(int(place)) for place in places],
    )
