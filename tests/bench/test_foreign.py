from pathlib import Path

import numpy as np
import pytest

from edgekd.bench.foreign import generated_inputs, likeness, trial
from edgekd.runtimes import open_session
from edgekd.runtimes.session import TensorSpec


def test_generated_inputs_fit_the_model_and_repeat() -> None:
    specs = [
        TensorSpec("a", (1, 40, 40), "int8", 0.1, 0),
        TensorSpec("b", (1, 3), "float32", 0.0, 0),
        TensorSpec("c", (1, 7), "int64", 0.0, 0),
    ]
    first, second = generated_inputs(specs, 5), generated_inputs(specs, 5)
    assert [(one.shape, one.dtype.name) for one in first] == [((5, *spec.shape[1:]), spec.dtype) for spec in specs]
    assert all(np.array_equal(*pair) for pair in zip(first, second, strict=True))
    assert (first[0].min(), first[0].max()) == (-128, 127)
    assert not first[2].any()


def test_a_trial_is_what_the_runtime_answers(int8_file: Path) -> None:
    found = trial(int8_file)
    assert np.array_equal(found.outputs[0], open_session(int8_file).run(found.inputs[0]))


@pytest.mark.parametrize(
    ("here", "there", "largest", "alike"),
    [
        (np.array([[1, 2]], np.int8), np.array([[1, 3]], np.int8), 1.0, True),
        (np.array([[-128, 2]], np.int8), np.array([[127, 2]], np.int8), 255.0, False),
        (np.array([[0.0, 4.0]], np.float32), np.array([[0.0039, 4.0]], np.float32), 0.0039, True),
        (np.array([[0.0, 4.0]], np.float32), np.array([[0.0041, 4.0]], np.float32), 0.0041, False),
        (np.array([[1.0]], np.float32), np.array([[np.nan]], np.float32), np.inf, False),
    ],
)
def test_how_far_off_an_output_may_be(here: np.ndarray, there: np.ndarray, largest: float, alike: bool) -> None:
    found = likeness([here], [there])
    assert found.largest == pytest.approx(largest)
    assert found.alike is alike


def test_the_worst_output_counts() -> None:
    good, bad = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    assert not likeness([good, good], [good, bad]).alike
