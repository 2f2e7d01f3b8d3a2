import numpy as np
import pytest

from edgekd.distill.config import Outputs
from edgekd.errors import UsageError
from edgekd.tasks import Dataset, Split
from edgekd.tasks.labels import as_labels, check_labels, check_taught, known, known_in_full

NAMES = ("cat", "dog", "owl")


def split(labels: object, samples: int | None = None, names: tuple[str, ...] = ()) -> Split:
    count = len(np.asarray(labels)) if samples is None else samples
    return Split(np.zeros((count, 2, 2, 1), dtype=np.uint8), np.asarray(labels), names)


def dataset(train: Split, test: Split | None = None, labels: tuple[str, ...] = NAMES) -> Dataset:
    return Dataset(train, test or split([0, 1, 2]), labels)


def refusal(data: Dataset, outputs: Outputs = "classification") -> str:
    with pytest.raises(UsageError) as caught:
        check_labels(data, outputs)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_takes_integer_labels_of_any_width(dtype: type) -> None:
    check_labels(dataset(split(np.array([0, 1, 2, 1], dtype=dtype))), "classification")


def test_a_class_may_be_missing_from_the_test_split() -> None:
    check_labels(dataset(split([0, 1, 2]), split([0, 1, 0])), "classification")


def test_refuses_a_class_without_a_training_sample_by_its_name() -> None:
    assert "no training sample of 'dog'" in refusal(dataset(split([0, 2, 0])))


def test_a_class_may_lack_labels_where_unlabelled_samples_may_be_of_it() -> None:
    check_labels(dataset(split([0, 2, -1, -1])), "classification")
    check_labels(dataset(split([-1, -1])), "classification")


def test_who_learns_from_labels_alone_needs_one_of_each_class() -> None:
    with pytest.raises(UsageError, match="no labelled training sample of 'dog'"):
        check_taught(np.array([0, 2, -1, -1]), "classification", NAMES)
    with pytest.raises(UsageError, match="no labelled training sample of 'owl'"):
        check_taught(np.array([[1, 0, 0], [0, 1, -1]]), "multi-label", NAMES)
    with pytest.raises(UsageError, match="no labelled training sample of 'cat'"):
        check_taught(np.array([[np.nan, 0.5], [np.nan, 1.5]]), "regression", NAMES[:2])
    check_taught(np.array([0, 2, 1, -1]), "classification", NAMES)


def test_refuses_a_split_of_one_class_and_names_it() -> None:
    message = refusal(dataset(split([1, 1, 1])))
    assert "train" in message
    assert "dog" in message


def test_refuses_a_test_split_of_one_class() -> None:
    assert "test" in refusal(dataset(split([0, 1]), split([2, 2])))


@pytest.mark.parametrize("outside", [-2, 3])
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


@pytest.mark.parametrize("name", ["test", "validation"])
def test_only_training_samples_may_lack_a_label(name: str) -> None:
    train = split([0, 1, 2])
    splits = {"test": train, "validation": train, name: split([0, 1, -1, 2])}
    message = refusal(Dataset(train, splits["test"], NAMES, splits["validation"]))
    assert message.startswith(f"data: {name} sample 2 has no label")


MANY = [[1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64])
def test_takes_sets_of_labels(dtype: type) -> None:
    rows = np.array(MANY, dtype=dtype)
    check_labels(dataset(split(rows), split(rows)), "multi-label")
    assert as_labels(rows, "multi-label").dtype == np.int64


@pytest.mark.parametrize("value", [2, -2])
def test_refuses_what_is_neither_0_nor_1_and_names_sample_and_label(value: int) -> None:
    rows = np.array(MANY)
    rows[1, 2] = value
    message = refusal(dataset(split(rows), split(MANY)), "multi-label")
    assert f"train sample 1 has label {value} for 'owl'" in message


def test_refuses_a_label_that_holds_for_no_training_sample() -> None:
    rows = np.array(MANY)
    rows[:, 1] = 0
    assert "no training sample of 'dog'" in refusal(dataset(split(rows), split(MANY)), "multi-label")
    rows[3, 1] = -1
    check_labels(dataset(split(rows), split(MANY)), "multi-label")


def test_refuses_a_test_sample_that_is_labelled_in_part() -> None:
    rows = np.array(MANY)
    rows[3, 0] = -1
    assert "test sample 3 has no label" in refusal(dataset(split(MANY), split(rows)), "multi-label")


@pytest.mark.parametrize("labels", [[0, 1, 1, 0], [[0, 1], [1, 0], [1, 1], [0, 0]]])
def test_refuses_sets_of_another_size(labels: object) -> None:
    message = refusal(dataset(split(labels), split(MANY)), "multi-label")
    assert "give 0 or 1 for each of the 3 labels" in message


def test_refuses_shares_as_sets_of_labels() -> None:
    assert "float64" in refusal(dataset(split(np.array(MANY) / 2), split(MANY)), "multi-label")


NUMBERS = [[0.5, 3.0], [1.5, -2.0], [2.5, 0.0]]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
def test_takes_numbers_to_hit(dtype: type) -> None:
    numbers = np.array(NUMBERS).astype(dtype)
    check_labels(dataset(split(numbers), split(numbers), ("ink", "tilt")), "regression")
    assert as_labels(numbers, "regression").dtype == np.float32


def test_a_training_sample_may_lack_a_number_and_a_test_sample_may_not() -> None:
    lacking = np.array([*NUMBERS, [np.nan, 1.0]])
    check_labels(dataset(split(lacking), split(NUMBERS), ("ink", "tilt")), "regression")
    message = refusal(dataset(split(NUMBERS), split(lacking), ("ink", "tilt")), "regression")
    assert "test sample 3 has no label" in message


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_refuses_an_infinite_number_and_names_it(value: float) -> None:
    numbers = np.array(NUMBERS)
    numbers[2, 1] = value
    message = refusal(dataset(split(numbers), split(NUMBERS), ("ink", "tilt")), "regression")
    assert f"train sample 2 has label {value:g} for 'tilt'" in message


@pytest.mark.parametrize("name", ["train", "test"])
def test_refuses_a_number_that_never_varies(name: str) -> None:
    numbers = np.array(NUMBERS)
    numbers[:, 0] = 4
    splits = {"train": split(NUMBERS), "test": split(NUMBERS), name: split(numbers)}
    assert f"{name} has one value only for 'ink'" in refusal(Dataset(labels=("ink", "tilt"), **splits), "regression")


def test_refuses_a_row_of_numbers() -> None:
    message = refusal(dataset(split([0.5, 1.5]), split(NUMBERS), ("ink", "tilt")), "regression")
    assert "give a number for each of the 2 outputs" in message


def test_refuses_words_as_numbers() -> None:
    words = np.array([["a", "b"], ["c", "d"]])
    assert "give numbers" in refusal(dataset(split(words), split(NUMBERS), ("ink", "tilt")), "regression")


def test_refuses_a_regression_without_outputs() -> None:
    assert "at least one" in refusal(dataset(split(np.zeros((2, 0))), split(np.zeros((2, 0))), ()), "regression")


def test_what_is_known_is_told_for_each_kind() -> None:
    assert known(np.array([0, -1, 2])).tolist() == [True, False, True]
    assert known_in_full(np.array([[1, 0], [-1, 1]])).tolist() == [True, False]
    assert known_in_full(np.array([[1.0, np.nan], [-1.0, 1.0]])).tolist() == [False, True]


def test_refuses_an_empty_split() -> None:
    assert "test split is empty" in refusal(dataset(split([0, 1]), split(np.zeros(0, dtype=int))))


@pytest.mark.parametrize("names", [(), ("cat",)])
def test_refuses_fewer_than_two_classes(names: tuple[str, ...]) -> None:
    assert "two" in refusal(dataset(split([0, 0]), split([0, 0]), names))
