"""The data that a recipe names, from the function that gives it."""

import dataclasses
from typing import Any

from edgekd.errors import UsageError
from edgekd.recipe import Task
from edgekd.references import call
from edgekd.tasks.dataset import Dataset
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
    stored: dict[str, Any] = {
        name: dataclasses.replace(split, labels=as_labels(split.labels, task.outputs))
        for name, split in data.splits.items()
    }
    return arranged(dataclasses.replace(data, **stored), task.outputs, task.labelled, task.validation, seed)
