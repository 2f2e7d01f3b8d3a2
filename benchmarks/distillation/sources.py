"""Splits of the data that the benchmark asks for beside the official ones."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from edgekd.recipe import AudioTask
from edgekd.tasks.audio import wav_folder
from edgekd.tasks.dataset import Dataset, Split


def one_speaker_out(task: AudioTask, *, speaker: str) -> Dataset:
    """All recordings of one speaker of `{label}_{speaker}_{index}.wav` to test with, those of the others to train."""
    data = wav_folder(task)
    names = [*data.train.names, *data.test.names]
    inputs = [*data.train.inputs, *data.test.inputs]
    labels = np.concatenate([data.train.labels, data.test.labels])
    own = [position for position, name in enumerate(names) if name.split("_")[1] == speaker]
    others = sorted(set(range(len(names))) - set(own))

    def part(split: Split, chosen: Sequence[int]) -> Split:
        return dataclasses.replace(
            split,
            inputs=[inputs[position] for position in chosen],
            labels=labels[list(chosen)],
            names=[names[position] for position in chosen],
        )

    return dataclasses.replace(data, train=part(data.train, others), test=part(data.test, own))
