"""Keras files and SavedModels that tensorflow writes, as teachers."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.distill.teacher_config import KerasModel
from tests.distill.teachers.files import copy_of_saved_model, keras_file, keras_model, saved_model
from tests.distill.teachers.small import HERE, ask, linear, model_inputs, refusal, samples_of


def keras(path: Path, **settings: Any) -> KerasModel:
    return KerasModel(kind="keras", path=path, **settings)


def test_a_keras_file_answers_with_channels_last(tmp_path: Path) -> None:
    found = ask(keras(keras_file(tmp_path / "teacher.keras")))
    np.testing.assert_allclose(found, linear(model_inputs()), atol=1e-4)


def test_a_saved_model_answers_alike() -> None:
    np.testing.assert_allclose(ask(keras(saved_model())), linear(model_inputs()), atol=1e-4)


def test_its_parameters_are_known(tmp_path: Path) -> None:
    from edgekd.distill.teachers.opening import opened

    with opened(keras(keras_file(tmp_path / "teacher.keras")), samples_of()) as (_, params):
        assert params == 60 * 3 + 3


def test_classes_in_another_order_are_mapped(tmp_path: Path) -> None:
    found = ask(keras(keras_file(tmp_path / "teacher.keras"), labels=("bright", "dark", "grey")))
    np.testing.assert_allclose(found, linear(model_inputs())[:, [1, 2, 0]], atol=1e-4)


def test_a_softmax_at_its_end_must_be_said(tmp_path: Path) -> None:
    file = keras_file(tmp_path / "teacher.keras", activation="softmax")
    assert 'outputs = "probabilities"' in refusal(keras(file))
    found, logits = ask(keras(file, outputs="probabilities")), linear(model_inputs())
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(found, np.maximum(expected, np.log(1e-6)), atol=1e-3)


@pytest.mark.parametrize("saved", [False, True])
def test_a_preprocessing_gives_what_the_model_takes(saved: bool, tmp_path: Path) -> None:
    path = saved_model() if saved else keras_file(tmp_path / "teacher.keras")
    found = ask(keras(path, preprocess=f"{HERE}:channels_last_pixels"))
    np.testing.assert_allclose(found, linear(model_inputs()), atol=1e-4)


def test_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    message = refusal(keras(keras_file(tmp_path / "teacher.keras", outputs=4)))
    assert "4 outputs" in message
    assert "3 classes (dark, grey, bright)" in message


def test_another_input_shape_is_refused(tmp_path: Path) -> None:
    file = keras_file(tmp_path / "teacher.keras", shape=(8, 8, 1))
    assert "shape (None, 8, 8, 1), not (10, 6, 5, 2)" in refusal(keras(file))
    keras_model(shape=(8, 8, 1)).export(tmp_path / "saved", verbose=False)
    assert "shape (None, 8, 8, 1), not (10, 6, 5, 2)" in refusal(keras(tmp_path / "saved"))


@pytest.mark.parametrize("name", ["teacher.h5", "teacher.onnx", "nothing.keras", "empty"])
def test_what_is_no_keras_model_is_refused(name: str, tmp_path: Path) -> None:
    if name != "nothing.keras":
        (tmp_path / name).mkdir() if name == "empty" else (tmp_path / name).write_bytes(b"\x89HDF" * 9)
    assert str(tmp_path / name) in refusal(keras(tmp_path / name))


def test_a_damaged_keras_file_is_refused(tmp_path: Path) -> None:
    file = keras_file(tmp_path / "teacher.keras")
    file.write_bytes(file.read_bytes()[:1000])
    assert f"{file} cannot be opened" in refusal(keras(file))


def test_a_saved_model_without_its_variables_is_refused(tmp_path: Path) -> None:
    folder = copy_of_saved_model(tmp_path / "saved")
    shutil.rmtree(folder / "variables")
    assert f"{folder} cannot be opened" in refusal(keras(folder))


def test_code_in_a_keras_file_is_not_run(tmp_path: Path) -> None:
    import tensorflow

    layers = tensorflow.keras.layers
    model = tensorflow.keras.Sequential(
        [layers.Input((6, 5, 2)), layers.Lambda(lambda x: x * 2), layers.Flatten(), layers.Dense(3)]
    )
    model.save(tmp_path / "teacher.keras")
    assert "cannot be opened" in refusal(keras(tmp_path / "teacher.keras"))
