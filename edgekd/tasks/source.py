"""The data that a recipe names, from the function that gives it."""

import dataclasses

from edgekd.errors import UsageError
from edgekd.recipe import Task
from edgekd.references import call
from edgekd.tasks.dataset import Dataset, Split
from edgekd.tasks.labels import as_labels, check_labels
from edgekd.tasks.splits import arranged


def load(task: Task, seed: int) -> Dataset:
    """Call the task's source, hide the labels that the task does not want, and hold out its validation split.

    The same task and seed give the same samples in the same order; labels are int64, or float32 for a regression.
    Raises UsageError if the source fails, gives something else, or its labels cannot be used.
    """
    data = call(task.source, "", task, args=task.args)
    if not isinstance(data, Dataset):
        raise UsageError(f"{task.source} returned {type(data).__name__}; return an edgekd.tasks.Dataset")
    check_labels(data, task.outputs)

    def stored(split: Split) -> Split:
        return dataclasses.replace(split, labels=as_labels(split.labels, task.outputs))

    validation = None if data.validation is None else stored(data.validation)
    data = dataclasses.replace(data, train=stored(data.train), test=stored(data.test), validation=validation)
    return arranged(data, task.outputs, task.labelled, task.validation, seed)
