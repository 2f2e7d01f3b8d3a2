"""Means of several teachers, by hand."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edgekd.distill.config import Outputs
from edgekd.distill.teacher_config import Ensemble, OnnxFile, Written
from edgekd.distill.teachers.ensemble import averaged
from tests.distill.teachers.files import onnx_file
from tests.distill.teachers.small import HERE, LABELS, ask, linear, model_inputs, refusal, samples_of, softmax

ONE, OTHER = np.array([[2.0, 0.0, -1.0]]), np.array([[0.0, 1.0, 1.0]])


def mean(weights: Sequence[float], mean: Written, outputs: Outputs = "classification") -> np.ndarray:
    members = [lambda batch: ONE.astype(np.float32), lambda batch: OTHER.astype(np.float32)]
    return averaged(members, weights, mean, outputs)(samples_of().probe)


def test_the_mean_of_logits() -> None:
    np.testing.assert_allclose(mean((), "logits"), (ONE + OTHER) / 2)
    np.testing.assert_allclose(mean((3.0, 1.0), "logits"), 0.75 * ONE + 0.25 * OTHER)


def test_the_mean_of_probabilities_is_given_as_logits() -> None:
    np.testing.assert_allclose(softmax(mean((), "probabilities")), (softmax(ONE) + softmax(OTHER)) / 2, rtol=1e-6)
    expected = 0.75 * softmax(ONE) + 0.25 * softmax(OTHER)
    np.testing.assert_allclose(np.exp(mean((3.0, 1.0), "probabilities")), expected, rtol=1e-6)


def test_the_mean_of_probabilities_of_labels_that_hold_together() -> None:
    found = mean((1.0, 3.0), "probabilities", "multi-label")
    expected = 0.25 / (1 + np.exp(-ONE)) + 0.75 / (1 + np.exp(-OTHER))
    np.testing.assert_allclose(1 / (1 + np.exp(-found)), expected, rtol=1e-6)


def test_numbers_are_averaged_as_they_are() -> None:
    np.testing.assert_allclose(mean((), "probabilities", "regression"), (ONE + OTHER) / 2)


def test_large_logits_do_not_overflow() -> None:
    members = [lambda batch: np.array([[1e4, 0.0]], np.float32)] * 2
    assert np.isfinite(averaged(members, (), "probabilities", "classification")(samples_of().probe)).all()


def test_members_have_their_own_preprocessing_and_order(tmp_path: Path) -> None:
    """One takes the student's inputs, the other the mean of each raw channel, in another order of classes."""
    whole = OnnxFile(kind="onnx", file=onnx_file(tmp_path / "whole.onnx"))
    kernel = np.array([[1, 2, 3], [0, -1, 4]], np.float32)
    small = OnnxFile(
        kind="onnx",
        file=onnx_file(tmp_path / "small.onnx", shape=(2,), kernel=kernel, bias=np.zeros(3, np.float32)),
        preprocess=f"{HERE}:brightness",
        labels=("bright", "dark", "grey"),
    )
    found = ask(Ensemble(kind="ensemble", members=(whole, small), weights=(1.0, 2.0), mean="logits"))
    raw = samples_of().batch("test", 0, 0, 10).raw
    other = (raw.mean(axis=(1, 2)) / 255) @ kernel
    expected = (linear(model_inputs()) + 2 * other[:, [1, 2, 0]]) / 3
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_member_that_does_not_fit_is_named(tmp_path: Path) -> None:
    file = onnx_file(tmp_path / "whole.onnx")
    members = (OnnxFile(kind="onnx", file=file), OnnxFile(kind="onnx", file=file, labels=("a", "b", "c")))
    message = refusal(Ensemble(kind="ensemble", members=members))
    assert message.startswith("teacher.members.1: ")
    assert "(a, b, c)" in message
    assert f"({', '.join(LABELS)})" in message


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 1.0, 1.0)])
def test_weights_are_one_for_each_member(weights: tuple[float, ...], tmp_path: Path) -> None:
    member = OnnxFile(kind="onnx", file=tmp_path / "x.onnx")
    with pytest.raises(ValueError, match="weights for 2 members"):
        Ensemble(kind="ensemble", members=(member, member), weights=weights)
