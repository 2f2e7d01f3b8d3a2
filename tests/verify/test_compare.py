from pathlib import Path

import numpy as np
import pytest
import torch

from edgekd.compress import QuantizedProgram
from edgekd.errors import UsageError
from edgekd.models.evaluate import predict
from edgekd.runtimes.session import channels_last
from edgekd.verify import parity
from edgekd.verify.compare import compare
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
