"""The raw samples behind the model inputs, in the very views that were drawn for these."""

from collections.abc import Callable, Sequence

import numpy as np

from edgekd.recipe import AudioTask, ImageTask, Task, TextTask
from edgekd.tasks import audio, image, text
from edgekd.tasks.dataset import Dataset, rng_of
from edgekd.tasks.source import load

Raw = np.ndarray | list[str]


class RawSamples:
    """All samples of a task as its source gives them; view 0 of a training sample is the sample itself.

    Blocks are uint8 (n, height, width, channels) for images, float32 (n, samples) in [-1, 1], cut or padded to the
    clip's length, for audio, and n sentences for text, with [UNK] for what a view drops.
    Raises UsageError if the source or a sample cannot be used.
    """

    def __init__(self, task: Task, seed: int) -> None:
        self._draw = _DRAW[type(task)](task, load(task, seed), np.random.default_rng(seed))

    def __call__(self, split: str, view: int, start: int, stop: int) -> Raw:
        """Samples `start` to `stop` of a split ("train", "validation" or "test") in a view."""
        return self._draw(split, view, start, stop)


Draw = Callable[[str, int, int, int], Raw]


def _images(task: ImageTask, data: Dataset, rng: np.random.Generator) -> Draw:
    images = {name: image.check_images(name, split) for name, split in data.splits.items()}

    def draw(split: str, view: int, start: int, stop: int) -> np.ndarray:
        block = images[split][start:stop]
        if view == 0:
            return block
        views = [image.augmented(task, one, rng_of(rng, view, start + at)) for at, one in enumerate(block)]
        return np.round(np.stack(views)).astype(np.uint8)

    return draw


def _waveforms(task: AudioTask, data: Dataset, rng: np.random.Generator) -> Draw:
    waves = {name: audio.check_waveforms(name, split) for name, split in data.splits.items()}
    samples = audio.clip_samples(task)

    def draw(split: str, view: int, start: int, stop: int) -> np.ndarray:
        block: Sequence[np.ndarray] = waves[split][start:stop]
        if view == 0:
            views = [audio.fit_length(wave, samples) for wave in block]
        else:
            views = [audio.augmented(task, wave, rng_of(rng, view, start + at)) for at, wave in enumerate(block)]
        return np.stack(views).astype(np.float32)

    return draw


def _sentences(task: TextTask, data: Dataset, rng: np.random.Generator) -> Draw:
    sentences = {name: text.check_sentences(name, split) for name, split in data.splits.items()}
    tokenizer = text.tokenizer_of(task, sentences["train"])

    def draw(split: str, view: int, start: int, stop: int) -> list[str]:
        block = sentences[split][start:stop]
        if view == 0:
            return block
        padding = text.padding_id(tokenizer)
        ids = text.encode(tokenizer, block)
        hits = [text.dropped(task, row, padding, rng_of(rng, view, start + at)) for at, row in enumerate(ids)]
        return [text.with_dropped(tokenizer, sentence, hit) for sentence, hit in zip(block, hits, strict=True)]

    return draw


_DRAW: dict[type, Callable[..., Draw]] = {ImageTask: _images, AudioTask: _waveforms, TextTask: _sentences}
