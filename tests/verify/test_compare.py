from pathlib import Path

import numpy as np
import pytest
import torch

from edgekd.compress import QuantizedProgram
from edgekd.errors import GateError, UsageError
from edgekd.models.evaluate import predict
from edgekd.runtimes.session import channels_last
from edgekd.verify import parity
from edgekd.verify.compare import compare, compare_outputs
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
