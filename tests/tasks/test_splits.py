import dataclasses

import numpy as np
import pytest

from edgekd.distill.config import Outputs
from edgekd.errors import UsageError
from edgekd.tasks import Dataset, Split
from edgekd.tasks.labels import known_in_full
from edgekd.tasks.splits import arranged, drawn

CLASSES = np.repeat([0, 1, 2], [100, 40, 10])


def dataset(labels: np.ndarray = CLASSES, names: tuple[str, ...] = ()) -> Dataset:
    """Images whose first pixel is the number of the sample."""
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None].repeat(2, axis=1)
    return Dataset(Split(images, labels, names), Split(images, labels), ("a", "b", "c"))


def numbers(split: Split) -> list[int]:
    return [int(image[0, 0, 0]) for image in split.inputs]


def test_with_nothing_asked_for_the_data_stay_as_they_are() -> None:
    data = dataset()
    assert arranged(data, "classification", 1.0, 0.0, 0) is data


@pytest.mark.parametrize("seed", range(5))
def test_a_share_of_the_labels_is_kept_in_the_proportions_of_the_classes(seed: int) -> None:
    data = dataset()
    labels = arranged(data, "classification", 0.1, 0.0, seed).train.labels
    assert [int((labels == name).sum()) for name in (0, 1, 2)] == [10, 4, 1]
    kept = labels != -1
    np.testing.assert_array_equal(labels[kept], CLASSES[kept])
    assert (data.train.labels == CLASSES).all()


def test_the_test_split_keeps_its_labels() -> None:
    assert (arranged(dataset(), "classification", 0.1, 0.2, 0).test.labels == CLASSES).all()


@pytest.mark.parametrize("seed", range(5))
def test_a_share_is_held_out_in_the_proportions_of_the_classes(seed: int) -> None:
    data = arranged(dataset(), "classification", 1.0, 0.2, seed)
    assert data.validation is not None
    assert np.bincount(data.validation.labels).tolist() == [20, 8, 2]
    both = numbers(data.train) + numbers(data.validation)
    assert sorted(both) == list(range(150))
    for split in (data.train, data.validation):
        np.testing.assert_array_equal(split.labels, CLASSES[numbers(split)])


def test_the_seed_chooses_and_nothing_else() -> None:
    first, again, other = (arranged(dataset(), "classification", 0.5, 0.2, seed) for seed in (3, 3, 4))
    assert numbers(first.train) == numbers(again.train)
    np.testing.assert_array_equal(first.train.labels, again.train.labels)
    assert numbers(first.train) != numbers(other.train)


def test_only_labelled_samples_are_held_out_and_they_count_among_the_labels() -> None:
    data = arranged(dataset(), "classification", 0.2, 0.5, 0)
    assert data.validation is not None
    assert len(data.validation.labels) == 15
    assert (data.validation.labels != -1).all()
    assert (data.train.labels != -1).sum() == 15
    assert len(data.train.labels) == 135


def test_a_validation_split_of_the_source_stays() -> None:
    given = dataclasses.replace(dataset(), validation=dataset().test)
    data = arranged(given, "classification", 1.0, 0.2, 0)
    assert data.validation is given.validation
    assert data.train is given.train


def test_samples_keep_the_names_that_errors_call_them_by() -> None:
    plain = arranged(dataset(), "classification", 1.0, 0.2, 0)
    assert [plain.train.name(place) for place in range(5)] == [f"sample {n}" for n in numbers(plain.train)[:5]]
    named = arranged(dataset(names=tuple(f"{n}.png" for n in range(150))), "classification", 1.0, 0.2, 0)
    assert named.validation is not None
    assert list(named.validation.names) == [f"{n}.png" for n in numbers(named.validation)]


def test_lists_are_split_like_arrays() -> None:
    data = dataset()
    listed = dataclasses.replace(data, train=Split(list(data.train.inputs), CLASSES))
    parts = arranged(listed, "classification", 1.0, 0.2, 0)
    assert numbers(parts.train) == numbers(arranged(data, "classification", 1.0, 0.2, 0).train)


def test_labels_of_a_sample_are_hidden_together() -> None:
    rows = np.random.default_rng(0).integers(0, 2, (150, 3))
    rows[:10, 0] = -1
    kept = arranged(dataset(rows), "multi-label", 0.5, 0.0, 0).train.labels
    hidden = (kept == -1).all(axis=1)
    assert hidden.sum() == 75
    np.testing.assert_array_equal(kept[~hidden], rows[~hidden])


def test_numbers_are_hidden_as_nan() -> None:
    wanted = np.random.default_rng(0).normal(size=(150, 2)).astype(np.float32)
    kept = arranged(dataset(wanted), "regression", 0.1, 0.0, 0).train.labels
    assert known_in_full(kept).sum() == 15
    assert kept.dtype == np.float32


@pytest.mark.parametrize("share", [0.0001, 0.9999])
def test_a_share_that_leaves_nothing_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match=r"^task\.validation: .* of 150 labelled training samples"):
        arranged(dataset(), "classification", 1.0, share, 0)


@pytest.mark.parametrize("outputs", ["classification", "regression"])
@pytest.mark.parametrize("count", [0, 1, 7, 149, 150])
def test_as_many_as_asked_for_are_drawn_and_none_twice(outputs: Outputs, count: int) -> None:
    places = drawn(CLASSES, outputs, count, np.random.default_rng(0))
    assert len(places) == len(set(places.tolist())) == count
    assert places.tolist() == sorted(places.tolist())


def test_every_sample_is_drawn_equally_often() -> None:
    random = np.random.default_rng(0)
    counts = sum(np.bincount(drawn(CLASSES, "classification", 30, random), minlength=150) for _ in range(2000))
    np.testing.assert_allclose(counts / 2000, 0.2, atol=0.05)
