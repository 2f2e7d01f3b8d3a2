"""What the data step leaves behind for each input and each kind of output."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.recipe import AudioAugment, AudioTask, ImageAugment, ImageTask, Task, TextAugment, TextTask
from edgekd.step import Work
from edgekd.tasks import Dataset, Split
from edgekd.tasks.steps import prepare

TRAIN, TEST, VIEWS = 40, 20, 3


def raw(task: Task, count: int, seed: int) -> Any:
    random = np.random.default_rng(seed)
    if isinstance(task, ImageTask):
        return random.integers(0, 256, (count, 6, 5, 1), dtype=np.uint8)
    if isinstance(task, AudioTask):
        return [random.integers(-9000, 9000, 4000, dtype=np.int16) for _ in range(count)]
    return [" ".join(random.choice(["good", "bad", "film", "plot"], 4)) for _ in range(count)]


def labels(task: Task, count: int) -> np.ndarray:
    if task.outputs == "classification":
        return np.arange(count) % 2
    if task.outputs == "multi-label":
        return np.stack([np.arange(count) % 2, np.arange(count) // 2 % 2], axis=1)
    return np.stack([np.arange(count) / 10, -np.arange(count) / 5], axis=1)


def source(task: Task) -> Dataset:
    train, test = (Split(raw(task, count, seed), labels(task, count)) for count, seed in ((TRAIN, 0), (TEST, 1)))
    return Dataset(train, test, ("first", "second"))


def task(entry: str, outputs: str, **settings: Any) -> Task:
    common = {"kind": f"{entry}-{outputs}", "source": f"{__name__}:source", **settings}
    if entry == "image":
        return ImageTask(augment=ImageAugment(views=VIEWS, noise=9.0), **common)
    if entry == "audio":
        return AudioTask(augment=AudioAugment(views=VIEWS, gain=3.0), sample_rate=8000, f_max=4000.0, **common)
    return TextTask(augment=TextAugment(views=VIEWS, drop=0.5), vocabulary=10, length=5, **common)


def prepared(folder: Path, made: Task, seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    facts = prepare(Work(made, {}, folder, seed))
    return {file.stem: np.load(file) for file in folder.glob("*.npy")}, facts


@pytest.mark.parametrize("entry", ["image", "audio", "text"])
@pytest.mark.parametrize(
    ("outputs", "dtype", "shape"),
    [("classification", np.int64, ()), ("multi-label", np.int64, (2,)), ("regression", np.float32, (2,))],
)
def test_every_split_is_there_with_its_labels(
    entry: str, outputs: str, dtype: type, shape: tuple[int, ...], tmp_path: Path
) -> None:
    made, facts = prepared(tmp_path / "data", task(entry, outputs, validation=0.25))
    counts = {"train": 30, "validation": 10, "test": TEST}
    for name, count in counts.items():
        assert made[f"{name}_labels"].dtype == dtype
        assert made[f"{name}_labels"].shape == (count, *shape)
    sample = tuple(facts["input_shape"])
    assert made["train_inputs"].shape == (VIEWS, 30, *sample)
    assert made["validation_inputs"].shape == (10, *sample)
    assert made["test_inputs"].shape == (TEST, *sample)
    assert made["train_inputs"].dtype == made["validation_inputs"].dtype == made["test_inputs"].dtype
    assert (facts["outputs"], facts["labels"]) == (outputs, ["first", "second"])
    assert (facts["train_samples"], facts["validation_samples"], facts["test_samples"]) == (30, 10, TEST)


@pytest.mark.parametrize("entry", ["image", "text"])
def test_what_is_held_out_is_prepared_like_the_rest(entry: str, tmp_path: Path) -> None:
    whole, _ = prepared(tmp_path / "whole", task(entry, "regression"))
    parts, _ = prepared(tmp_path / "parts", task(entry, "regression", validation=0.25))
    numbers = np.concatenate([parts["train_labels"], parts["validation_labels"]])[:, 0]
    order = np.round(numbers * 10).astype(int)
    assert sorted(order) == list(range(TRAIN))
    if entry == "image":
        inputs = np.concatenate([parts["train_inputs"][0], parts["validation_inputs"]])
        np.testing.assert_array_equal(inputs, whole["train_inputs"][0][order])


def test_without_a_share_there_is_no_validation_split(tmp_path: Path) -> None:
    made, facts = prepared(tmp_path / "data", task("image", "classification"))
    assert not [name for name in made if name.startswith("validation")]
    assert facts["validation_samples"] == 0
    assert facts["labelled_samples"] == TRAIN


@pytest.mark.parametrize("outputs", ["classification", "multi-label", "regression"])
def test_hidden_labels_leave_the_samples(outputs: str, tmp_path: Path) -> None:
    made, facts = prepared(tmp_path / "data", task("image", outputs, labelled=0.1))
    assert facts["labelled_samples"] == 4
    assert facts["train_samples"] == TRAIN
    whole, _ = prepared(tmp_path / "whole", task("image", outputs))
    np.testing.assert_array_equal(made["train_inputs"], whole["train_inputs"])
