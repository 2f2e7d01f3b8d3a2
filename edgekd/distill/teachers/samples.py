"""What a teacher is asked: the samples of a prepared data set, batch by batch."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from edgekd.artifact import Artifact
from edgekd.distill.config import Outputs
from edgekd.recipe import Task
from edgekd.tasks.raw import Raw, RawSamples

SPLITS = {"train": "training", "validation": "validation", "test": "test"}
"""The splits that a data set may have, and what their samples are called."""


@dataclass(frozen=True)
class Batch:
    """Consecutive samples of a split in one view, from `start` on.

    inputs: as the student takes them: float32, or int32 token ids, shape (n, ...).
    """

    split: str
    view: int
    start: int
    inputs: np.ndarray
    draw: Callable[[str, int, int, int], Raw] = field(repr=False)

    def __len__(self) -> int:
        return len(self.inputs)

    @cached_property
    def raw(self) -> Raw:
        """The same samples as the source gives them, in this view; see `edgekd.tasks.raw`."""
        return self.draw(self.split, self.view, self.start, self.start + len(self))

    def name(self, row: int) -> str:
        view = f" in view {self.view}" if self.view else ""
        return f"{SPLITS[self.split]} sample {self.start + row}{view}"

    def __str__(self) -> str:
        return f"{SPLITS[self.split]} samples {self.start} to {self.start + len(self) - 1}"


class Samples:
    """All samples of a data artifact. They are mapped from its files, and read batch by batch.

    task: what the data were made from, for teachers that look at raw samples; else None.
    shapes: split -> (views, samples). labels: names of the outputs in the data's order.
    """

    def __init__(self, data: Artifact, task: Task | None, seed: int) -> None:
        self.data, self._task, self._seed = data, task, seed
        self.facts = data.facts
        self.labels: tuple[str, ...] = tuple(data.facts["labels"])
        self.outputs: Outputs = data.facts["outputs"]
        files = {split: f"{split}_inputs.npy" for split in SPLITS}
        self._inputs = {
            split: np.load(data.file(name), mmap_mode="r") for split, name in files.items() if name in data.files
        }
        for split in self._inputs.keys() - {"train"}:
            self._inputs[split] = self._inputs[split][None]
        self.shapes = {split: inputs.shape[:2] for split, inputs in self._inputs.items()}

    def batch(self, split: str, view: int, start: int, stop: int) -> Batch:
        return Batch(split, view, start, np.array(self._inputs[split][view, start:stop]), self._draw)

    @cached_property
    def _raw(self) -> RawSamples:
        assert self._task is not None, "a teacher that looks at raw samples, without the task that they come from"
        return RawSamples(self._task, self._seed)

    def _draw(self, split: str, view: int, start: int, stop: int) -> Raw:
        return self._raw(split, view, start, stop)

    @property
    def probe(self) -> Batch:
        """The first test sample: what a teacher is tried with."""
        return self.batch("test", 0, 0, 1)
