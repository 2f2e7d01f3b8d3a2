"""Small data sets in each kind of sample, prepared as a build does it, and linear teachers whose answers are known."""

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.artifact import Artifact, Facts, Provenance, State, describe_files
from edgekd.distill.teachers.opening import opened
from edgekd.distill.teachers.samples import Batch, Samples
from edgekd.errors import UsageError
from edgekd.recipe import AudioAugment, AudioTask, ImageAugment, ImageTask, Task, TextAugment, TextTask
from edgekd.step import Work
from edgekd.tasks import Dataset, Split
from edgekd.tasks.steps import prepare

HERE = "tests.distill.teachers.small"
LABELS = ("dark", "grey", "bright")
SHAPE = (2, 6, 5)
SIZE = 60
"""Numbers of an image."""
TRAIN, TEST = 600, 30
SEED = 5


def images(task: ImageTask) -> Dataset:
    """Images of (6, 5, 2): none of the channels is bright, or the first, or the second."""
    random = np.random.default_rng(3)
    labels = np.arange(TRAIN + TEST) % 3
    levels = np.array([[60, 60], [150, 60], [60, 150]])[labels][:, None, None]
    pixels = levels + random.normal(0, 40, (TRAIN + TEST, 6, 5, 2))
    return _split(np.clip(pixels, 0, 255).astype(np.uint8), labels)


def waves(task: AudioTask) -> Dataset:
    random = np.random.default_rng(3)
    labels = np.arange(TRAIN + TEST) % 3
    clips = [random.normal(0, 2000 * (1 + label), 900 + 10 * label).astype(np.int16) for label in labels]
    return _split(clips, labels)


WORDS = (("bad", "dull"), ("fair", "plain"), ("good", "fine"))


def sentences(task: TextTask) -> Dataset:
    random = np.random.default_rng(3)
    labels = np.arange(TRAIN + TEST) % 3
    return _split(
        [f"A {WORDS[label][random.integers(2)]} film, number {at % 7}" for at, label in enumerate(labels)], labels
    )


def _split(inputs: Any, labels: np.ndarray) -> Dataset:
    return Dataset(Split(inputs[:TRAIN], labels[:TRAIN]), Split(inputs[TRAIN:], labels[TRAIN:]), LABELS)


IMAGES = ImageTask(kind="image-classification", source=f"{HERE}:images")
IMAGE_VIEWS = ImageTask(
    kind="image-classification",
    source=f"{HERE}:images",
    augment=ImageAugment(views=3, shift=1.0, rotate=20.0, noise=4.0),
)
WAVES = AudioTask(
    kind="audio-classification", source=f"{HERE}:waves", sample_rate=1000, win_length=100, hop_length=50, n_fft=128,
    n_mels=8, f_max=500.0, augment=AudioAugment(views=2, shift=0.1, gain=3.0),
)  # fmt: skip
SENTENCES = TextTask(
    kind="text-classification",
    source=f"{HERE}:sentences",
    length=8,
    vocabulary=50,
    augment=TextAugment(views=2, drop=0.3),
)


def made(folder: Path, facts: Facts, step: str = "data") -> Artifact:
    """What a step left in a folder, as the store gives it."""
    provenance = Provenance({}, {}, "", {}, SEED, 0.0, "")
    return Artifact("", step, folder, State("dataset"), describe_files(folder), facts, provenance)


_MADE: dict[str, tuple[tempfile.TemporaryDirectory[str], Artifact]] = {}


def data_of(task: Task = IMAGES) -> Artifact:
    """The prepared data of a task, made once for all tests."""
    if repr(task) not in _MADE:
        place = tempfile.TemporaryDirectory()
        facts = prepare(Work(task, {}, Path(place.name), SEED))
        _MADE[repr(task)] = (place, made(Path(place.name), facts))
    return _MADE[repr(task)][1]


def samples_of(task: Task = IMAGES) -> Samples:
    return Samples(data_of(task), task, SEED)


def ask(teacher: Any, samples: Samples | None = None, batch: Batch | None = None) -> np.ndarray:
    """What a teacher answers, by default to the first ten test images."""
    samples = samples or samples_of()
    with opened(teacher, samples) as (answer, _):
        return answer(batch or samples.batch("test", 0, 0, 10))


def refusal(teacher: Any, samples: Samples | None = None, batch: Batch | None = None) -> str:
    """The one line that a teacher is refused with."""
    with pytest.raises(UsageError) as error:
        ask(teacher, samples, batch)
    assert "\n" not in str(error.value)
    return str(error.value)


@functools.cache
def weights(outputs: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """A linear teacher of flattened channels-last images: (60, outputs), (outputs,)."""
    random = np.random.default_rng(11)
    return (
        random.normal(0, 0.3, (SIZE, outputs)).astype(np.float32),
        random.normal(0, 1, outputs).astype(np.float32),
    )


def linear(inputs: np.ndarray, outputs: int = 3) -> np.ndarray:
    """Its answers to model inputs, (n, channels, height, width)."""
    kernel, bias = weights(outputs)
    flat: np.ndarray = inputs.transpose(0, 2, 3, 1).reshape(len(inputs), -1) @ kernel + bias
    return flat


def softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def model_inputs(count: int = 10) -> np.ndarray:
    return np.load(data_of().file("test_inputs.npy"))[:count]


def brightness(raw: np.ndarray) -> np.ndarray:
    """A preprocessing: raw images as (n, 2), the mean of each channel, 0 to 1."""
    assert raw.dtype == np.uint8
    return (raw.mean(axis=(1, 2)) / 255).astype(np.float32)


def channels_last_pixels(raw: np.ndarray) -> np.ndarray:
    """A preprocessing: what the student's inputs are, made from the raw images and channels last."""
    return ((raw.astype(np.float32) - 128) / 64).astype(np.float32)


def fragile(input_shape: tuple[int, ...], classes: int, at: float) -> nn.Module:
    """A torch module whose answer to an image with this first number is not a number."""

    class Fragile(nn.Sequential):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = super().forward(inputs)
            return torch.where((inputs[:, 0, 0, 0] == at)[:, None], torch.nan, logits)

    return Fragile(nn.Flatten(), nn.Linear(SIZE, classes))


def first_ids(raw: list[str]) -> np.ndarray:
    """A preprocessing that reads nothing: ids (n, 4)."""
    return np.tile(np.arange(4), (len(raw), 1))
