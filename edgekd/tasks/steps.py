"""The step that turns a user's data into model inputs, once, for every step that follows."""

import numpy as np

from edgekd.artifact import Facts
from edgekd.recipe import AudioTask, ImageTask, Task
from edgekd.step import Work
from edgekd.tasks import audio, image, text
from edgekd.tasks.labels import known_in_full
from edgekd.tasks.source import load


def prepare(work: Work[Task]) -> Facts:
    """Load, check and preprocess. Files: `train_inputs.npy`, float32 (views, N, channels, height, width), or int32
    (views, N, length) for text; `test_inputs.npy`, and `validation_inputs.npy` where there is such a split, the same
    without views; `train_labels.npy`, `test_labels.npy`, `validation_labels.npy`, int64 (N,), or (N, labels), or
    float32 (N, outputs), -1 or NaN where a training sample has none; `golden_raw.npy`, the first test samples as the
    app has them; and what the app needs beside the model.
    """
    task = work.config
    data = load(task, work.seed)
    rng = np.random.default_rng(work.seed)
    if isinstance(task, ImageTask):
        prepared = image.prepare(task, data, rng, work.progress)
    elif isinstance(task, AudioTask):
        prepared = audio.prepare(task, data, rng, work.progress)
    else:
        prepared = text.prepare(task, data, rng, work.progress, work.out)
    for name, split in data.splits.items():
        np.save(work.out / f"{name}_inputs.npy", getattr(prepared, name))
        np.save(work.out / f"{name}_labels.npy", split.labels)
    np.save(work.out / "golden_raw.npy", prepared.golden_raw)
    return {
        "task": task.kind,
        "outputs": task.outputs,
        "labels": list(data.labels),
        "input_shape": list(prepared.test.shape[1:]),
        "train_samples": len(data.train.labels),
        "labelled_samples": int(known_in_full(data.train.labels).sum()),
        "validation_samples": 0 if data.validation is None else len(data.validation.labels),
        "views": task.augment.views,
        "test_samples": len(data.test.labels),
        "preprocessing": prepared.preprocessing,
        "vocabulary": prepared.vocabulary,
        "app_files": list(prepared.app_files),
    }
