from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekd.compress import QuantizedProgram
from edgekd.errors import GateError, UsageError
from edgekd.models.evaluate import predict
from edgekd.runtimes.session import channels_last
from edgekd.verify import parity
from edgekd.verify.compare import as_logits, compare, compare_answers, compare_outputs
from tests.export.small import quantized, samples

EXPECTED = np.array([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0], [0.0, 5.0, 1.0], [0.5, 0.25, 0.0]], dtype=np.float32)


def test_equal_outputs() -> None:
    result = compare(EXPECTED, EXPECTED.copy(), scale=0.5)
    assert (result.samples, result.agreement, result.max_abs_diff, result.max_lsb) == (4, 1.0, 0.0, 0.0)
    assert result.disagreeing == ()


def test_a_difference_is_told_in_reals_and_in_steps_with_its_sample() -> None:
    found = EXPECTED.copy()
    found[1, 2] = 0.25
    found[2, 0] = -1.0
    result = compare(EXPECTED, found, scale=0.5)
    assert result.max_abs_diff == 1.0
    assert result.max_lsb == 2.0
    assert result.worst == 2
    assert result.agreement == 1.0


def test_samples_with_another_answer_are_listed() -> None:
    found = EXPECTED[:, [1, 0, 2]]
    result = compare(EXPECTED, found, scale=0.5)
    assert result.disagreeing == (1, 2, 3)
    assert result.agreement == 0.25


def test_a_float_output_has_no_steps() -> None:
    assert compare(EXPECTED, EXPECTED + 0.125, scale=0.0).max_lsb is None


@pytest.mark.parametrize(("which", "name"), [(0, "trained model"), (1, "exported file")])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_answer_that_is_not_finite_is_told_with_its_sample(which: int, name: str, value: float) -> None:
    outputs = [EXPECTED.copy(), EXPECTED.copy()]
    outputs[which][2, 1] = value
    with pytest.raises(GateError, match=rf"{name} answers NaN or infinity for test sample 2"):
        compare(*outputs, scale=0.5)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def test_logits_are_compared_as_they_are() -> None:
    found = EXPECTED + np.float32(0.75)
    assert compare_outputs(EXPECTED, found, 0.5, "logits") == compare(EXPECTED, found, 0.5)


def test_probabilities_are_compared_with_the_softmax_of_the_logits() -> None:
    result = compare_outputs(EXPECTED, softmax(EXPECTED), 0.5, "probabilities")
    assert result.agreement == 1.0
    assert result.max_abs_diff < 1e-6
    assert result.max_lsb == pytest.approx(0, abs=1e-3)


def test_a_probability_is_told_in_steps_of_the_logits() -> None:
    logits = np.zeros((1, 2), dtype=np.float32)
    found = np.array([[0.6, 0.4]], dtype=np.float32)
    result = compare_outputs(logits, found, 0.05, "probabilities")
    assert result.max_abs_diff == pytest.approx(0.1)
    assert result.max_lsb == pytest.approx(0.1 / (0.05 / 2), abs=1e-3)
    assert compare_outputs(logits, found, 0.0, "probabilities").max_lsb is None


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("steps", [1, 3, 8])
def test_logits_that_are_some_steps_off_never_count_as_more(classes: int, steps: int) -> None:
    random, step = np.random.default_rng(0), 0.04
    logits = random.normal(0, 2, (400, classes)).astype(np.float32)
    off = random.choice([-steps, steps], (400, classes)) * step
    found = softmax(logits + off.astype(np.float32))
    result = compare_outputs(logits, found, step, "probabilities")
    assert result.max_lsb is not None
    assert 0 < result.max_lsb <= steps


def test_two_even_classes_need_all_of_the_steps() -> None:
    step, steps = 1e-3, 4
    off = np.array([[steps * step, -steps * step]], dtype=np.float32)
    result = compare_outputs(np.zeros_like(off), softmax(off), step, "probabilities")
    assert result.max_lsb == pytest.approx(steps, rel=1e-3)


def test_large_logits_have_finite_probabilities() -> None:
    logits = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]], dtype=np.float32)
    found = np.array([[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]], dtype=np.float32)
    assert compare_outputs(logits, found, 0.5, "probabilities").max_abs_diff < 1e-6


def test_another_answer_is_one_in_probabilities_too() -> None:
    found = softmax(EXPECTED)[:, [1, 0, 2]]
    result = compare_outputs(EXPECTED, found, 0.5, "probabilities")
    assert result.disagreeing == (1, 2, 3)


@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_logits_that_are_not_finite_are_refused(output: str) -> None:
    logits = EXPECTED.copy()
    logits[1, 0] = np.nan
    with pytest.raises(GateError, match="trained model answers NaN or infinity for test sample 1"):
        compare_outputs(logits, softmax(EXPECTED), 0.5, output)


def test_a_file_agrees_with_the_program_it_was_made_from(int8_file: Path) -> None:
    result = parity(int8_file, quantized(), samples(100))
    assert result.samples == 100
    assert result.agreement >= 0.98
    assert result.max_lsb <= 2.5


def test_a_file_does_not_agree_with_another_program(int8_file: Path) -> None:
    class Mirrored(torch.nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return quantized().model(inputs).flip(1)

    other = QuantizedProgram(Mirrored(), quantized().example, quantized().table)
    result = parity(int8_file, other, samples(50))
    assert result.max_lsb > 20
    assert result.agreement < 0.9


def test_a_float_file_is_compared_too(float_file: Path) -> None:
    result = parity(float_file, quantized(), samples(20))
    assert result.max_lsb == pytest.approx(result.max_abs_diff / quantized().output_scale, abs=1e-3)
    assert 0 < result.max_abs_diff < np.ptp(predict(quantized().model, samples(20)))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.tflite"):
        parity(tmp_path / "gone.tflite", quantized(), samples(1))


@pytest.mark.parametrize("shape", [(3, 8, 6), (1, 5, 5), (3, 3, 3)])
def test_images_are_handed_over_channels_last(shape: tuple[int, int, int]) -> None:
    images = np.arange(2 * np.prod(shape)).reshape(2, *shape)
    channels, height, width = shape
    turned = channels_last(images)
    assert turned.shape == (2, height, width, channels)
    for channel in range(channels):
        np.testing.assert_array_equal(turned[..., channel], images[:, channel])


def test_what_is_not_an_image_is_handed_over_as_it_is() -> None:
    rows = np.arange(12).reshape(2, 6)
    np.testing.assert_array_equal(channels_last(rows), rows)


SETS = np.array([[1.0, -2.0, 3.0], [-4.0, -1.0, 0.5], [0.25, 0.5, -1.0]], dtype=np.float32)


def test_sets_of_labels_agree_where_each_label_does() -> None:
    found = SETS.copy()
    found[1, 2], found[2, 1] = -0.25, 9.0
    result = compare(SETS, found, 0.25, "multi-label")
    assert result.disagreeing == (1,)
    assert result.max_lsb == 34.0


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)


def test_probabilities_of_labels_are_compared_with_the_sigmoid_of_the_logits() -> None:
    result = compare_outputs(SETS, sigmoid(SETS), 0.5, "probabilities", "multi-label")
    assert result.agreement == 1.0
    assert result.max_abs_diff < 1e-6


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_labels_that_are_some_steps_off_never_count_as_more(steps: int) -> None:
    random, step = np.random.default_rng(0), 0.04
    logits = random.normal(0, 2, (400, 5)).astype(np.float32)
    off = random.choice([-steps, steps], (400, 5)) * step
    result = compare_outputs(logits, sigmoid(logits + off), step, "probabilities", "multi-label")
    assert result.max_lsb is not None
    assert steps / 2 < result.max_lsb <= steps
    assert set(result.disagreeing) == set(np.flatnonzero(((logits > 0) != (logits + off > 0)).any(axis=1)))


def test_large_logits_of_labels_have_finite_probabilities() -> None:
    logits = np.array([[1e4, -1e4]], dtype=np.float32)
    result = compare_outputs(logits, np.array([[1.0, 0.0]], dtype=np.float32), 0.5, "probabilities", "multi-label")
    assert (result.agreement, result.max_abs_diff) == (1.0, 0.0)


NUMBERS = np.array([[0.0, 100.0], [50.0, 101.0], [100.0, 102.0]], dtype=np.float32)


@pytest.mark.parametrize(("off", "agrees"), [((0.9, 0.0), True), ((1.1, 0.0), False), ((0.0, 0.03), False)])
def test_numbers_agree_within_one_percent_of_their_own_range(off: tuple[float, float], agrees: bool) -> None:
    found = NUMBERS.copy()
    found[1] += off
    assert compare(NUMBERS, found, 0.0, "regression").disagreeing == (() if agrees else (1,))


def test_numbers_agree_within_one_step() -> None:
    found = NUMBERS + np.array([0.0, 0.4], dtype=np.float32)
    assert compare(NUMBERS, found, 0.4, "regression").agreement == 1.0
    assert compare(NUMBERS, found, 0.3, "regression").agreement == 0.0


def test_numbers_have_no_probabilities() -> None:
    assert compare_outputs(NUMBERS, NUMBERS, 0.5, "numbers", "regression") == compare(
        NUMBERS, NUMBERS, 0.5, "regression"
    )


@pytest.mark.parametrize("outputs", ["multi-label", "regression"])
def test_answers_of_each_kind_that_are_not_finite_are_told(outputs: str) -> None:
    found = SETS.copy()
    found[2, 0] = np.nan
    with pytest.raises(GateError, match="exported file answers NaN or infinity for test sample 2"):
        compare(SETS, found, 0.5, outputs)


@pytest.mark.parametrize(("outputs", "chances"), [("classification", softmax), ("multi-label", sigmoid)])
def test_logits_come_back_from_probabilities(outputs: str, chances: Callable[[np.ndarray], np.ndarray]) -> None:
    logits = as_logits(chances(EXPECTED), outputs)
    np.testing.assert_allclose(chances(logits), chances(EXPECTED), atol=1e-6)


def test_two_machines_agree_on_probabilities_as_on_logits() -> None:
    here, there = sigmoid(SETS), sigmoid(SETS)
    there[0, 1] = 0.51
    result = compare_answers(here, there, 0.0, "probabilities", "multi-label")
    assert result.disagreeing == (0,)
    assert result.max_abs_diff == pytest.approx(abs(0.51 - float(here[0, 1])))
