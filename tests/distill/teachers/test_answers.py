"""From a model's numbers to logits in the data's order."""

from typing import Any

import numpy as np
import pytest

from edgekd.distill.teachers.answers import SMALLEST, Source, answering, as_logits, in_order
from edgekd.distill.teachers.samples import Samples
from edgekd.errors import GateError, UsageError
from edgekd.tasks.probabilities import logits_of
from tests.distill.teachers.small import LABELS, SEED, data_of, samples_of


def answer(numbers: Any, **settings: Any) -> np.ndarray:
    samples = samples_of()
    count = len(numbers) if isinstance(numbers, list | np.ndarray) else 2
    source = Source(lambda batch: numbers, "teacher", **settings)
    return answering(source, samples)(samples.batch("test", 0, 4, 4 + count))


def refused(numbers: Any, **settings: Any) -> str:
    with pytest.raises(UsageError) as error:
        answer(numbers, **settings)
    return str(error.value)


def test_logits_stay_as_they_are() -> None:
    found = answer([[1.0, -2.0, 30.0], [0.0, 0.5, 2.0]])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[1, -2, 30], [0, 0.5, 2]])


def test_classes_in_another_order_are_mapped_by_name() -> None:
    found = answer([[1.0, 2.0, 3.0]], labels=("bright", "dark", "grey"))
    np.testing.assert_array_equal(found, [[2, 3, 1]])


def test_without_names_the_order_is_taken_to_be_the_data_s() -> None:
    assert in_order((), LABELS, "teacher") == [0, 1, 2]


@pytest.mark.parametrize("own", [("dark", "grey", "white"), ("dark", "grey"), ("dark", "grey", "bright", "white")])
def test_other_classes_are_refused_with_both_lists(own: tuple[str, ...]) -> None:
    message = refused([[1.0, 2.0, 3.0]], labels=own)
    assert f"({', '.join(own)})" in message
    assert "(dark, grey, bright)" in message


def test_another_number_of_outputs_is_refused() -> None:
    message = refused([[1.0, 2.0, 3.0, 4.0]])
    assert "4 outputs" in message
    assert "3 classes (dark, grey, bright)" in message


@pytest.mark.parametrize("numbers", [np.zeros((3, 3)), np.zeros(3), np.zeros((2, 3, 1)), np.full((2, 3), "x")])
def test_answers_of_another_shape_or_dtype_are_refused(numbers: np.ndarray) -> None:
    samples = samples_of()
    teacher = answering(Source(lambda batch: numbers, "teacher"), samples)
    with pytest.raises(UsageError, match=r"teacher: it answers .* to 2 samples; \(2, 3\) is wanted"):
        teacher(samples.batch("test", 0, 0, 2))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_a_number_that_is_not_finite_names_the_sample(bad: float) -> None:
    with pytest.raises(GateError, match="teacher: its outputs for test sample 5 are not finite"):
        answer([[1.0, 2.0, 3.0], [1.0, bad, 3.0]])


def test_a_view_is_named_with_its_sample() -> None:
    from tests.distill.teachers.small import IMAGE_VIEWS

    samples = samples_of(IMAGE_VIEWS)
    teacher = answering(Source(lambda batch: np.full((2, 3), np.nan), "teacher"), samples)
    with pytest.raises(GateError, match="for training sample 7 in view 2 are"):
        teacher(samples.batch("train", 2, 7, 9))


def test_probabilities_become_their_logarithms() -> None:
    found = answer([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]], written="probabilities")
    np.testing.assert_allclose(found[0], np.log([0.5, 0.25, 0.25]), rtol=1e-6)
    np.testing.assert_allclose(found[1], [0, np.log(1e-6), np.log(1e-6)], rtol=1e-6)


def test_probabilities_of_labels_become_logits_of_each() -> None:
    found = logits_of(np.array([[0.5, 0.75, 0.0]]), "multi-label", SMALLEST)
    np.testing.assert_allclose(found, [[0, np.log(3), np.log(1e-6 / (1 - 1e-6))]], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("row", [[0.5, 0.5, 0.5], [1.5, -0.5, 0.0], [0.2, 0.2, 0.2]])
def test_probabilities_that_are_none_name_the_sample(row: list[float]) -> None:
    message = refused([[0.5, 0.25, 0.25], row], written="probabilities")
    assert "test sample 5" in message
    assert "no probabilities" in message


def test_what_seems_to_be_probabilities_must_be_said() -> None:
    message = refused([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
    assert 'outputs = "probabilities"' in message
    np.testing.assert_array_equal(answer([[0.5, 0.25, 0.25]], written="logits"), [[0.5, 0.25, 0.25]])


def of_outputs(outputs: str) -> Samples:
    samples = Samples(data_of(), None, SEED)
    samples.outputs = outputs  # type: ignore[assignment]
    return samples


def test_labels_that_hold_together_seem_to_be_probabilities_once_there_are_several_samples() -> None:
    samples = of_outputs("multi-label")
    batch = samples.batch("test", 0, 0, 8)
    source = Source(lambda batch: np.full((8, 3), 0.9), "teacher")
    with pytest.raises(UsageError, match="look like probabilities"):
        answering(source, samples)(batch)
    assert (as_logits(np.full((2, 3), 0.9), source, "multi-label", samples.batch("test", 0, 0, 2)) == 0.9).all()


def test_numbers_of_a_regression_stay_and_are_no_probabilities() -> None:
    samples = of_outputs("regression")
    batch, numbers = samples.batch("test", 0, 0, 1), [[0.5, 0.25, 0.25]]
    np.testing.assert_array_equal(answering(Source(lambda batch: numbers, "teacher"), samples)(batch), numbers)
    with pytest.raises(UsageError, match="a regression has numbers"):
        answering(Source(lambda batch: numbers, "teacher", written="probabilities"), samples)


def test_whatever_a_model_raises_names_the_teacher_and_the_samples() -> None:
    def fails(batch: object) -> np.ndarray:
        raise RuntimeError("shapes do not match\nat line 3")

    samples = samples_of()
    with pytest.raises(UsageError) as error:
        answering(Source(fails, "teacher"), samples)(samples.batch("test", 0, 2, 6))
    assert str(error.value) == "teacher: it fails on test samples 2 to 5: RuntimeError: shapes do not match"
