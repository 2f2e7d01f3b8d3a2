"""The data a task learns from, as a source function hands it over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

GOLDEN_SAMPLES = 16


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    inputs: one raw sample each. Images: uint8, shape (N, height, width, channels). Audio: N waveforms, each a
        1-D int16 array, or float in [-1, 1]. Text: N strings.
    labels: what is right. Classification: integer class indices, shape (N,); -1 where a training sample has none.
        Multi-label: 1 for each label that holds, else 0, shape (N, labels); -1 where it is not known. Regression:
        numbers, shape (N, outputs), NaN where there is none; learned as they are: let them be of like size.
    names: what each sample is called in an error message, N strings, or empty.
    """

    inputs: np.ndarray | Sequence[np.ndarray] | Sequence[str]
    labels: np.ndarray
    names: Sequence[str] = ()

    def name(self, index: int) -> str:
        return self.names[index] if self.names else f"sample {index}"


@dataclass(frozen=True)
class Dataset:
    """What a source function returns: raw samples for training and test, and what the outputs are called, in order.

    Training samples may lack labels; those of the other splits may not.
    """

    train: Split
    test: Split
    labels: tuple[str, ...]
    validation: Split | None = None

    @property
    def splits(self) -> dict[str, Split]:
        """Those that there are, by name."""
        found = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in found.items() if split is not None}


@dataclass(frozen=True)
class Prepared:
    """A data set as model inputs.

    train: float32, shape (views, N, channels, height, width), or token ids, int32, (views, N, length).
    test, validation: the same without views.
    golden_raw: the first GOLDEN_SAMPLES test samples as the app has them.
    preprocessing: how raw samples become model inputs, as JSON for the manifest.
    vocabulary: how many token ids there are, or None where inputs are no ids.
    app_files: files written beside the arrays that the app needs to prepare its inputs.
    """

    train: np.ndarray
    test: np.ndarray
    golden_raw: np.ndarray
    preprocessing: dict[str, object]
    vocabulary: int | None = None
    app_files: tuple[str, ...] = ()
    validation: np.ndarray | None = None


def rng_of(rng: np.random.Generator, view: int, index: int) -> np.random.Generator:
    """A generator for one view of one sample, by the seed of `rng` alone: any view can be drawn again by itself."""
    seed = rng.bit_generator.seed_seq.entropy  # type: ignore[attr-defined]
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(view, index)))


def raw_pixels(preprocessing: Mapping[str, Any]) -> tuple[float, float] | None:
    """Mean and standard deviation of the normalisation, where the app hands over raw pixels; else None."""
    if preprocessing["input"] != "raw pixels":
        return None
    return preprocessing["mean"], preprocessing["std"]


def pixel_range(preprocessing: Mapping[str, Any]) -> tuple[float, float] | None:
    """For raw pixels, the normalised values of 0 and 255: then an int8 input is the pixel moved by a whole number."""
    if (pixels := raw_pixels(preprocessing)) is None:
        return None
    mean, std = pixels
    return (0 - mean) / std, (255 - mean) / std
