"""What a file gives and says for each kind of output."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekd.distill.config import Outputs
from edgekd.export.card import Card, meaning, output_of
from edgekd.export.formats import export_float
from edgekd.models.evaluate import predict
from edgekd.readers.coreml import read_program
from edgekd.runtimes import open_session
from edgekd.target import Format
from tests.export.small import FEATURES, samples, student

FORMATS: tuple[Format, ...] = ("tflite", "onnx", "openvino", "coreml")


def card(wanted: str, outputs: Outputs) -> Card:
    return dataclasses.replace(FEATURES, output=output_of(wanted, outputs), outputs=outputs)  # type: ignore[arg-type]


def answers(folder: Path, format_name: Format, made: Card) -> tuple[np.ndarray, np.ndarray]:
    """The student's logits, and what its float32 file gives for the same samples."""
    inputs = samples(5)
    file = export_float(student(), torch.zeros_like(inputs[:1]), format_name, "float32", folder, made)
    session = open_session(file)
    return predict(student(), inputs), session.decode(session.run(session.encode(inputs.numpy())))


@pytest.mark.parametrize("format_name", FORMATS)
def test_probabilities_of_labels_are_sigmoids(format_name: Format, tmp_path: Path) -> None:
    logits, found = answers(tmp_path, format_name, card("probabilities", "multi-label"))
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)), atol=1e-5)


@pytest.mark.parametrize("format_name", FORMATS)
def test_probabilities_of_classes_are_softmaxes(format_name: Format, tmp_path: Path) -> None:
    logits, found = answers(tmp_path, format_name, card("probabilities", "classification"))
    powers = np.exp(logits)
    np.testing.assert_allclose(found, powers / powers.sum(axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("wanted", ["logits", "probabilities"])
def test_numbers_come_out_as_they_are(format_name: Format, wanted: str, tmp_path: Path) -> None:
    numbers, found = answers(tmp_path, format_name, card(wanted, "regression"))
    np.testing.assert_allclose(found, numbers, atol=1e-4)


@pytest.mark.parametrize("outputs", ["multi-label", "regression"])
def test_only_classes_make_a_core_ml_classifier(outputs: Outputs, tmp_path: Path) -> None:
    answers(tmp_path, "coreml", card("probabilities", outputs))
    program = read_program(tmp_path / "model.mlpackage")
    assert not program.labels
    assert [value.name for value in program.outputs] == ["output"]


def test_what_comes_out_is_said_in_words() -> None:
    assert meaning("logits", "classification") == "logits; the largest is the answer"
    assert meaning("probabilities", "multi-label") == "probabilities; each label above 0.5 holds"
    assert meaning(output_of("probabilities", "regression"), "regression") == "numbers, in the order of the labels"


def test_a_file_says_of_what_kind_its_outputs_are() -> None:
    assert card("logits", "regression").properties()["edgekd.outputs"] == "regression"
    assert card("logits", "regression").properties()["edgekd.output"] == "numbers"
