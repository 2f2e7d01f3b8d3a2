"""A file of answers that were given before, .npz, as a teacher.

For each split that the data have (`train`, `validation`, `test`) it holds

- `train_fingerprint`, uint64 (...): which samples the answers are for; see `fingerprint`,
- and the answers as one of
  `train_outputs`, float (..., outputs): logits, or the numbers of a regression;
  `train_probabilities`, float (..., outputs);
  `train_top_probabilities`, float (..., k), with `train_top_classes`, int (..., k): the k likeliest classes, while what
  is left is spread evenly over the others;
  `train_labels`, int (...): the class alone; for multi-label 0 or 1, (..., outputs),

where ... is N, or (views, N) for data in several views. `classes`, strings, may name the classes in their order.

    raw = RawSamples(recipe.task, recipe.seed)   # of edgekd.tasks.raw; the recipe by edgekd.recipe.load_recipe
    samples = raw("train", view, 0, count)
    prints, answers = fingerprint(samples), my_teacher(samples)
"""

import hashlib
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.distill.config import Outputs
from edgekd.distill.teacher_config import StoredOutputs
from edgekd.distill.teachers.answers import Source, as_logits, checked
from edgekd.distill.teachers.samples import SPLITS, Batch, Samples
from edgekd.errors import UsageError, first_line

FORMS: dict[Outputs, tuple[str, ...]] = {
    "classification": ("outputs", "probabilities", "top_probabilities", "labels"),
    "multi-label": ("outputs", "probabilities", "labels"),
    "regression": ("outputs",),
}
"""What a split's answers may be."""
BLOCK = 256


def fingerprint(samples: Iterable[Any]) -> np.ndarray:
    """One number for each raw sample as `edgekd.tasks.raw.RawSamples` gives it, uint64, (n,): equal samples, equal
    numbers. They are the first 8 bytes, little-endian, of the SHA-256 of a sentence's UTF-8, or of an array's bytes.
    """
    contents = (one.encode() if isinstance(one, str) else np.ascontiguousarray(one).tobytes() for one in samples)
    return np.array([int.from_bytes(hashlib.sha256(one).digest()[:8], "little") for one in contents], dtype=np.uint64)


def open_stored(config: StoredOutputs, samples: Samples, name: str) -> Source:
    """Read the file, all of it, and hold it against the data.

    Raises UsageError if it is missing or damaged, or its answers are for other samples, fewer, or in another order.
    """
    arrays = _read(config.file, name)
    labels = config.labels or tuple(str(label) for label in arrays.get("classes", ()))
    forms = {split: _form(arrays, split, samples.outputs, name) for split in samples.shapes}
    for split in samples.shapes:
        _check_samples(arrays, split, samples, name)
    count = len(labels or samples.labels)
    stated = Source(lambda batch: np.empty(0), name, written="probabilities")

    def numbers(batch: Batch) -> np.ndarray:
        form = forms[batch.split]
        answers = _rows(arrays, f"{batch.split}_{form}", batch, samples, name)
        if form == "outputs":
            return answers
        if form == "top_probabilities":
            classes = _rows(arrays, f"{batch.split}_top_classes", batch, samples, name)
            answers = _spread(answers, classes, count, batch, name)
        elif form == "labels" and samples.outputs == "classification":
            answers = _spread(np.ones((len(batch), 1)), answers[:, None], count, batch, name)
        probabilities = checked(answers, batch, stated, labels or samples.labels)
        return as_logits(probabilities, stated, samples.outputs, batch)

    return Source(numbers, name, labels, "logits")


def _read(file: Path, name: str) -> dict[str, np.ndarray]:
    try:
        content = np.load(file, allow_pickle=False)
        if isinstance(content, np.ndarray):
            raise UsageError(f"{name}: {file} is a single array; store the outputs as .npz, with fingerprints")
        with content:
            return dict(content)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise UsageError(f"{name}: {file} cannot be read as .npz ({first_line(error)})") from error


def _form(arrays: Mapping[str, np.ndarray], split: str, outputs: Outputs, name: str) -> str:
    found = [form for form in FORMS[outputs] if f"{split}_{form}" in arrays]
    if len(found) != 1:
        wanted = ", ".join(f"{split}_{form}" for form in FORMS[outputs])
        raise UsageError(f"{name}: it needs exactly one of {wanted}; it holds {', '.join(arrays) or 'nothing'}")
    for beside in ["top_classes", "fingerprint"] if found == ["top_probabilities"] else ["fingerprint"]:
        if f"{split}_{beside}" not in arrays:
            raise UsageError(f"{name}: it has {split}_{found[0]} and no {split}_{beside}; store that, too")
    return found[0]


def _check_samples(arrays: Mapping[str, np.ndarray], split: str, samples: Samples, name: str) -> None:
    """Are the answers for these very samples, in this order? Draws every view of them once."""
    views, count = samples.shapes[split]
    stored = _in_views(arrays[f"{split}_fingerprint"], f"{split}_fingerprint", (views, count), SPLITS[split], name)
    for view in range(views):
        for start in range(0, count, BLOCK):
            batch = samples.batch(split, view, start, min(start + BLOCK, count))
            other = fingerprint(batch.raw) != stored[view, start : start + BLOCK]
            if other.any():
                raise UsageError(
                    f"{name}: its answers are for other samples than the data's, or in another order: first at "
                    f"{batch.name(int(np.flatnonzero(other)[0]))}"
                )


def _rows(arrays: Mapping[str, np.ndarray], key: str, batch: Batch, samples: Samples, name: str) -> np.ndarray:
    array = _in_views(arrays[key], key, samples.shapes[batch.split], SPLITS[batch.split], name)
    return array[batch.view, batch.start : batch.start + len(batch)]


def _in_views(array: np.ndarray, key: str, shape: tuple[int, int], what: str, name: str) -> np.ndarray:
    """An array as (views, N, ...). Raises UsageError if it has other rows."""
    views, count = shape
    if array.shape[:2] == shape:
        return array
    if views == 1 and array.shape[:1] == (count,):
        return array[None]
    if views > 1 and array.shape[:1] == (count,):
        raise UsageError(
            f"{name}: {key} is for one view of each sample, the data has {views}; store all of them, or set "
            "task.augment.views=1"
        )
    raise UsageError(f"{name}: {key} has shape {array.shape}, the data has {count} {what} samples in {views} view(s)")


def _spread(top: np.ndarray, classes: np.ndarray, count: int, batch: Batch, name: str) -> np.ndarray:
    """Probabilities (n, k) of some classes (n, k) as those of all, with what is left shared evenly by the others."""
    if top.shape != classes.shape or classes.dtype.kind not in "iu" or top.ndim != 2:
        raise UsageError(
            f"{name}: {classes.dtype} classes of shape {classes.shape} for {batch}; whole numbers of shape {top.shape} "
            "are wanted"
        )
    ranked = np.sort(classes, axis=1)
    wrong = ((classes < 0) | (classes >= count)).any(axis=1) | (ranked[:, 1:] == ranked[:, :-1]).any(axis=1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise UsageError(
            f"{name}: the classes {classes[row].tolist()} of {batch.name(row)} are not different ones of "
            f"0 to {count - 1}"
        )
    left = (1 - top.sum(axis=1, keepdims=True)) / max(count - top.shape[1], 1)
    everywhere = np.repeat(left, count, axis=1)
    np.put_along_axis(everywhere, classes.astype(np.int64), top, axis=1)
    return everywhere
