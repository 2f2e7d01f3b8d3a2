"""Data as models take it, prepared once by the package's own step and kept in a folder."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.distillation.kept import kept, key_of
from edgekd.models.build import Architecture
from edgekd.models.evaluate import load_array
from edgekd.recipe import AudioTask, TextTask
from edgekd.step import Work
from edgekd.tasks.steps import prepare

UNLABELLED = -1
SEED = 0


@dataclass(frozen=True)
class Material:
    """inputs: (V, N, ...), V views of each training sample. labels: int64 (N,), whatever of them is used later.

    test, test_labels: (M, ...) and int64 (M,). key: of the task that it was made for.
    """

    inputs: torch.Tensor
    labels: np.ndarray
    test: torch.Tensor
    test_labels: np.ndarray
    classes: int
    vocabulary: int | None
    key: str

    def architecture(self, model: str, args: dict[str, object]) -> Architecture:
        return Architecture(model, args, tuple(self.test.shape[1:]), self.classes, self.vocabulary)


def material(task: AudioTask | TextTask, cache: Path) -> Material:
    """The task's data, prepared in `cache` if it is not there yet."""
    key = key_of(task)
    folder = cache / "data" / key
    folder.mkdir(parents=True, exist_ok=True)
    facts = kept(folder / "facts.json", lambda: prepare(Work(task, {}, folder, SEED)))
    return Material(
        load_array(folder / "train_inputs.npy"),
        np.load(folder / "train_labels.npy"),
        load_array(folder / "test_inputs.npy"),
        np.load(folder / "test_labels.npy"),
        len(facts["labels"]),
        facts["vocabulary"],
        key,
    )


def with_few_labels(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The labels with only `count` of them left, as many of each class as goes, drawn from the seed."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(labels))
    place_in_class = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        own = order[labels[order] == label]
        place_in_class[own] = np.arange(len(own))
    chosen = order[np.argsort(place_in_class[order], kind="stable")[:count]]
    few = np.full_like(labels, UNLABELLED)
    few[chosen] = labels[chosen]
    return few
