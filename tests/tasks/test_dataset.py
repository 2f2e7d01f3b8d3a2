import numpy as np
import pytest

from edgekd.errors import UsageError
from edgekd.tasks import Dataset, Split
from edgekd.tasks.dataset import check_labels


def split(labels: object, samples: int | None = None, names: tuple[str, ...] = ()) -> Split:
    count = len(np.asarray(labels)) if samples is None else samples
    return Split(np.zeros((count, 2, 2, 1), dtype=np.uint8), np.asarray(labels), names)


def dataset(train: Split, test: Split | None = None, labels: tuple[str, ...] = ("cat", "dog", "owl")) -> Dataset:
    return Dataset(train, test or split([0, 1, 2]), labels)


def refusal(data: Dataset) -> str:
    with pytest.raises(UsageError) as caught:
        check_labels(data)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_takes_integer_labels_of_any_width(dtype: type) -> None:
    check_labels(dataset(split(np.array([0, 1, 2, 1], dtype=dtype))))


def test_a_class_may_be_missing_from_a_split() -> None:
    check_labels(dataset(split([0, 1, 0])))


def test_refuses_a_split_of_one_class_and_names_it() -> None:
    message = refusal(dataset(split([1, 1, 1])))
    assert "train" in message
    assert "dog" in message


def test_refuses_a_test_split_of_one_class() -> None:
    assert "test" in refusal(dataset(split([0, 1]), split([2, 2])))


@pytest.mark.parametrize("outside", [-1, 3])
def test_refuses_a_label_out_of_range_and_names_the_sample(outside: int) -> None:
    message = refusal(dataset(split([0, 1, outside, 2])))
    assert "train sample 2" in message
    assert str(outside) in message
    assert "0 to 2" in message


def test_a_sample_with_a_name_is_called_by_it() -> None:
    assert "7_ann_0.wav" in refusal(dataset(split([0, 9], names=("0_ann_0.wav", "7_ann_0.wav"))))


def test_refuses_float_labels() -> None:
    assert "float64" in refusal(dataset(split([0.0, 1.0])))


def test_refuses_another_number_of_labels_than_samples() -> None:
    message = refusal(dataset(split([0, 1, 2], samples=4)))
    assert "4 samples" in message
    assert "(3,)" in message


def test_refuses_one_hot_labels() -> None:
    assert "(3, 3)" in refusal(dataset(split(np.eye(3, dtype=int))))


def test_refuses_an_empty_split() -> None:
    assert "test split is empty" in refusal(dataset(split([0, 1]), split(np.zeros(0, dtype=int))))


@pytest.mark.parametrize("names", [(), ("cat",)])
def test_refuses_fewer_than_two_classes(names: tuple[str, ...]) -> None:
    assert "two" in refusal(dataset(split([0, 0]), split([0, 0]), names))
