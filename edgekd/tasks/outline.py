"""What a task's data will look like to a model, without preparing it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.distill.config import Outputs
from edgekd.recipe import AudioTask, ImageTask, Task
from edgekd.tasks import audio, image, text
from edgekd.tasks.dataset import Split
from edgekd.tasks.source import load


@dataclass(frozen=True)
class Outline:
    """input_shape: that of one sample. train_samples: in the training split. vocabulary: how many token ids there are,
    or None. tokenizer: the file of a task that has one.
    """

    input_shape: tuple[int, ...]
    labels: tuple[str, ...]
    outputs: Outputs
    train_samples: int
    vocabulary: int | None
    preprocessing: Mapping[str, Any]
    tokenizer: Path | None = None


def outline(task: Task, seed: int) -> Outline:
    """Load the data and look at its first sample. Raises UsageError if it cannot be used."""
    data = load(task, seed)
    samples = len(data.train.labels)
    if isinstance(task, ImageTask):
        first = image.check_images("train", Split(data.train.inputs[:1], data.train.labels[:1]))
        height, width, channels = first.shape[1:]
        normalisation = {"input": "raw pixels", "mean": task.mean, "std": task.std}
        return Outline((channels, height, width), data.labels, task.outputs, samples, None, normalisation)
    if isinstance(task, AudioTask):
        features = audio.log_mel(task, np.zeros((1, audio.clip_samples(task))))
        return Outline((1, *features.shape[1:]), data.labels, task.outputs, samples, None, {"input": audio.FEATURES})
    size, said = text.vocabulary_size(task), {"input": "token ids"}
    return Outline((task.length,), data.labels, task.outputs, samples, size, said, task.tokenizer)


def outline_of(facts: Mapping[str, Any]) -> Outline:
    """That of data that are prepared."""
    shape, labels = tuple(facts["input_shape"]), tuple(facts["labels"])
    samples, vocabulary = facts["train_samples"], facts["vocabulary"]
    return Outline(shape, labels, facts["outputs"], samples, vocabulary, facts["preprocessing"])


def noise(data: Outline, count: int, seed: int) -> np.ndarray:
    """Inputs of the right kind, shape (count, ...): standard normal numbers, float32, or any token ids, int32."""
    random, shape = np.random.default_rng(seed), (count, *data.input_shape)
    if data.vocabulary is not None:
        return random.integers(0, data.vocabulary, shape, dtype=np.int32)
    return random.normal(size=shape).astype(np.float32)
