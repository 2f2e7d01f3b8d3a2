"""ONNX and TFLite files as teachers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.distill.teacher_config import OnnxFile, TFLiteFile
from edgekd.distill.teachers.runtime_file import open_file
from edgekd.distill.teachers.samples import Batch
from edgekd.models.evaluate import predict
from tests.distill.teachers.files import onnx_file, tflite_file
from tests.distill.teachers.small import HERE, LABELS, SHAPE, ask, linear, model_inputs, refusal, samples_of, weights
from tests.export.small import exported, quantized, samples, student


def onnx(file: Path, **settings: Any) -> OnnxFile:
    return OnnxFile(kind="onnx", file=file, **settings)


def tflite(file: Path, **settings: Any) -> TFLiteFile:
    return TFLiteFile(kind="tflite", file=file, **settings)


@pytest.mark.parametrize("batch", [None, 1])
def test_an_onnx_file_answers_with_or_without_a_fixed_batch(batch: int | None, tmp_path: Path) -> None:
    found = ask(onnx(onnx_file(tmp_path / "teacher.onnx", batch=batch)))
    np.testing.assert_allclose(found, linear(model_inputs()), atol=1e-4)


def test_a_tflite_file_gets_its_images_channels_last(tmp_path: Path) -> None:
    found = ask(tflite(tflite_file(tmp_path / "teacher.tflite")))
    np.testing.assert_allclose(found, linear(model_inputs()), atol=1e-4)


def test_labels_of_the_recipe_give_the_order(tmp_path: Path) -> None:
    found = ask(onnx(onnx_file(tmp_path / "teacher.onnx"), labels=("grey", "bright", "dark")))
    np.testing.assert_allclose(found, linear(model_inputs())[:, [2, 0, 1]], atol=1e-4)


def test_labels_of_the_file_give_the_order_and_its_card_says_what_its_numbers_are(tmp_path: Path) -> None:
    card = {"edgekd.labels": json.dumps(["grey", "bright", "dark"]), "edgekd.output": "probabilities"}
    found = ask(onnx(onnx_file(tmp_path / "teacher.onnx", softmax=True, metadata=card)))
    logits = linear(model_inputs())[:, [2, 0, 1]]
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(found, np.maximum(expected, np.log(1e-6)), atol=1e-3)


def test_a_file_of_other_classes_is_refused_before_it_answers(tmp_path: Path) -> None:
    card = {"edgekd.labels": json.dumps(["cat", "dog", "cow"])}
    message = refusal(onnx(onnx_file(tmp_path / "teacher.onnx", metadata=card)))
    assert "(cat, dog, cow)" in message
    assert f"({', '.join(LABELS)})" in message


def test_a_card_that_is_damaged_counts_as_none(tmp_path: Path) -> None:
    card = {"edgekd.labels": "[", "edgekd.preprocessing": "{}"}
    found = ask(onnx(onnx_file(tmp_path / "teacher.onnx", metadata=card)))
    np.testing.assert_allclose(found, linear(model_inputs()), atol=1e-4)


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_file_that_edgekd_exported_is_a_teacher(kind: str, precision: Any, tmp_path: Path) -> None:
    """It has labels and takes pixels; its numbers are those of the model that it was made from."""
    file = exported(tmp_path, kind, precision=precision)  # type: ignore[arg-type]
    source = open_file(onnx(file) if kind == "onnx" else tflite(file), "teacher")
    inputs = samples(8)
    assert tuple(source.labels) == ("north", "east", "south", "west")
    found = source.numbers(Batch("test", 0, 0, inputs.numpy(), lambda *place: []))
    model, tolerance = (
        (student(), 1e-3) if precision == "float32" else (quantized().model, 3 * quantized().output_scale)
    )
    np.testing.assert_allclose(found, predict(model, inputs), atol=tolerance)


def test_a_preprocessing_gets_raw_samples(tmp_path: Path) -> None:
    kernel = np.array([[1, 2, 3], [0, -1, 4]], np.float32)
    file = onnx_file(tmp_path / "teacher.onnx", shape=(2,), kernel=kernel, bias=np.zeros(3, np.float32))
    found = ask(onnx(file, preprocess=f"{HERE}:brightness"))
    raw = samples_of().batch("test", 0, 0, 10).raw
    np.testing.assert_allclose(found, (raw.mean(axis=(1, 2)) / 255) @ kernel, atol=1e-5)


def test_labels_of_the_file_count_with_a_preprocessing_too(tmp_path: Path) -> None:
    kernel = np.array([[1, 2, 3], [0, -1, 4]], np.float32)
    card = {"edgekd.labels": json.dumps(["cat", "dog", "cow"])}
    file = onnx_file(tmp_path / "t.onnx", shape=(2,), kernel=kernel, bias=np.zeros(3, np.float32), metadata=card)
    assert "(cat, dog, cow)" in refusal(onnx(file, preprocess=f"{HERE}:brightness"))


def test_an_input_of_another_shape_is_refused_with_both(tmp_path: Path) -> None:
    kernel, bias = weights()
    file = onnx_file(tmp_path / "teacher.onnx", shape=(60,), kernel=kernel, bias=bias)
    message = refusal(onnx(file))
    assert "shape (60,)" in message
    assert f"these have {SHAPE}" in message
    assert "preprocess" in message


def test_a_tflite_file_of_another_shape_is_refused(tmp_path: Path) -> None:
    message = refusal(tflite(exported(tmp_path, "tflite", precision="float32"), labels=LABELS))
    assert "shape (8, 6, 3)" in message


def test_the_output_called_logits_counts(tmp_path: Path) -> None:
    found = ask(onnx(onnx_file(tmp_path / "teacher.onnx", extra_output="features")))
    np.testing.assert_allclose(found, linear(model_inputs()), atol=1e-4)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x00" * 64, b"TFL3" * 40])
@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_what_is_no_model_is_refused(kind: str, content: bytes, tmp_path: Path) -> None:
    file = tmp_path / f"teacher.{kind}"
    file.write_bytes(content)
    message = refusal(onnx(file) if kind == "onnx" else tflite(file))
    assert message.startswith(f"teacher: {file}")


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_a_file_that_ends_too_early_is_refused(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"teacher.{kind}"
    whole = onnx_file(file) if kind == "onnx" else tflite_file(file)
    file.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert str(file) in refusal(onnx(file) if kind == "onnx" else tflite(file))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert str(tmp_path / "no.onnx") in refusal(onnx(tmp_path / "no.onnx"))
    assert str(tmp_path / "no.tflite") in refusal(tflite(tmp_path / "no.tflite"))


def test_probabilities_that_nobody_announced_are_noticed(tmp_path: Path) -> None:
    file = onnx_file(tmp_path / "teacher.onnx", softmax=True)
    assert "look like probabilities" in refusal(onnx(file))
    found = ask(onnx(file, outputs="probabilities"))
    assert np.abs(np.exp(found).sum(axis=1) - 1).max() < 1e-3
