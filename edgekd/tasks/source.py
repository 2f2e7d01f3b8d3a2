"""The data that a recipe names, from the function that gives it."""

from edgekd.errors import UsageError
from edgekd.recipe import Task
from edgekd.references import call
from edgekd.tasks.dataset import Dataset, check_labels


def load(task: Task) -> Dataset:
    """Call the task's source. Raises UsageError if it fails, gives something else, or its labels cannot be used."""
    data = call(task.source, "", task, args=task.args)
    if not isinstance(data, Dataset):
        raise UsageError(f"{task.source} returned {type(data).__name__}; return an edgekd.tasks.Dataset")
    check_labels(data)
    return data
