import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgekd.dependencies import apart
from edgekd.errors import DependencyError, DeviceError, EdgekdError, UsageError
from edgekd.export.card import Card
from edgekd.export.tflite_metadata import with_metadata
from edgekd.export.tflite_pack import pack
from edgekd.export.tflite_store import halve_weights, store_embeddings
from edgekd.runtimes import tflite_runtime
from edgekd.runtimes.litert import LiteRTSession
from edgekd.runtimes.tflite_runtime import TFLiteRuntimeSession
from tests.export.small import float_content, int8_content, samples
from tests.export.test_tflite_store import tokens, words, words_content

needs_environment = pytest.mark.skipif(not apart().exists(), reason=f"tflite-runtime is not installed at {apart()}")


def written(content: bytes, folder: Path) -> Path:
    file = folder / "model.tflite"
    file.write_bytes(content)
    return file


def raised(file: Path) -> EdgekdError:
    with pytest.raises(EdgekdError) as caught:
        TFLiteRuntimeSession(file)
    assert "\n" not in str(caught.value)
    return caught.value


@needs_environment
def test_inputs_and_outputs_are_those_of_litert(int8_file: Path, float_file: Path) -> None:
    for file in (int8_file, float_file):
        found, expected = TFLiteRuntimeSession(file), LiteRTSession(file)
        assert found.inputs == expected.inputs
        assert found.outputs == expected.outputs
        assert found.placement().total == expected.placement().total


@needs_environment
def test_an_int8_file_answers_as_in_litert_within_two_steps(int8_file: Path) -> None:
    found, expected = TFLiteRuntimeSession(int8_file), LiteRTSession(int8_file)
    numbers = expected.encode(samples(200).numpy())
    np.testing.assert_array_equal(found.encode(samples(200).numpy()), numbers)
    outputs, reference = found.run(numbers), expected.run(numbers)
    assert outputs.dtype == np.int8
    assert np.abs(outputs.astype(np.int32) - reference).max() <= 2
    assert (outputs.argmax(-1) == reference.argmax(-1)).mean() >= 0.97
    assert len(np.unique(outputs)) > 50


@needs_environment
def test_a_float_file_answers_as_in_litert(float_file: Path) -> None:
    found, expected = TFLiteRuntimeSession(float_file), LiteRTSession(float_file)
    inputs = expected.encode(samples(20).numpy())
    np.testing.assert_allclose(found.run(inputs), expected.run(inputs), atol=1e-5)


@needs_environment
def test_one_sample_set_by_hand_is_one_of_a_run(int8_file: Path) -> None:
    session = TFLiteRuntimeSession(int8_file)
    numbers = session.encode(samples(3).numpy())
    session.set_inputs([numbers[1:2]])
    session.invoke()
    np.testing.assert_array_equal(session.get_outputs()[0], session.run(numbers)[1:2])


@needs_environment
def test_all_samples_of_a_run_go_to_one_process(int8_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session, started, run = TFLiteRuntimeSession(int8_file), [], subprocess.run

    def counted(*arguments: Any, **options: Any) -> Any:
        started.append(arguments)
        return run(*arguments, **options)

    monkeypatch.setattr(subprocess, "run", counted)
    assert len(session.run(session.encode(samples(30).numpy()))) == 30
    assert len(started) == 1


@needs_environment
def test_files_with_metadata_and_stored_constants_are_taken(tmp_path: Path) -> None:
    card = Card("shapes", ("a", "b", "c", "d"), "logits", {"input": "features"})
    for content in (with_metadata(int8_content(), card), halve_weights(float_content())):
        file = written(content, tmp_path)
        inputs = LiteRTSession(file).encode(samples(5).numpy())
        np.testing.assert_allclose(TFLiteRuntimeSession(file).run(inputs), LiteRTSession(file).run(inputs), atol=2)


@needs_environment
def test_words_go_in_as_ids(tmp_path: Path) -> None:
    model, entry = words(per_row=False)
    file = written(store_embeddings(words_content(model), [entry]), tmp_path)
    np.testing.assert_allclose(TFLiteRuntimeSession(file).run(tokens()), LiteRTSession(file).run(tokens()), atol=1e-6)


@needs_environment
def test_an_operation_that_is_too_new_is_named_in_the_runtimes_words(tmp_path: Path) -> None:
    model, entry = words(per_row=True)
    error = raised(written(store_embeddings(words_content(model), [entry]), tmp_path))
    assert isinstance(error, DeviceError)
    assert "EMBEDDING_LOOKUP" in str(error)
    assert "version '4'" in str(error)


@needs_environment
def test_a_version_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(int8_content(), 0))
    model.operatorCodes[0].version = 99
    error = raised(written(pack(model), tmp_path))
    assert isinstance(error, DeviceError)
    assert "version '99'" in str(error)


@needs_environment
def test_samples_of_another_shape_or_type_are_refused(int8_file: Path) -> None:
    session = TFLiteRuntimeSession(int8_file)
    for wrong in (np.zeros((2, 3, 8, 6), dtype=np.int8), np.zeros((2, 8, 6, 3), dtype=np.float32)):
        with pytest.raises(DeviceError, match=r"refuses it: .*input"):
            session.run(wrong)


@needs_environment
@pytest.mark.parametrize("length", [8, 40, 200, 1000, 2500])
def test_a_truncated_file_is_refused(length: int, tmp_path: Path) -> None:
    assert "model.tflite" in str(raised(written(int8_content()[:length], tmp_path)))


@needs_environment
def test_a_process_that_does_not_end_is_stopped(int8_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tflite_runtime, "START_SECONDS", 0.001)
    error = raised(int8_file)
    assert isinstance(error, DeviceError)
    assert "stopped" in str(error)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(64)])
def test_what_is_not_a_model_is_refused(content: bytes, tmp_path: Path) -> None:
    assert isinstance(raised(written(content, tmp_path)), UsageError)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert isinstance(raised(tmp_path / "gone.tflite"), UsageError)


def test_without_its_environment_the_command_that_makes_it_is_given(
    int8_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "my env"))
    place = f"'{tmp_path}/my env/apart/tflite-runtime'"
    error = raised(int8_file)
    assert isinstance(error, DependencyError)
    assert f"-m venv {place} && " in str(error)
    assert "-m pip install tflite-runtime==2.14.0 'numpy<2'" in str(error)


def test_an_environment_without_the_runtime_is_said_to_lack_it(
    int8_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "apart" / "tflite-runtime" / "bin"
    folder.mkdir(parents=True)
    (folder / "python").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    error = raised(int8_file)
    assert isinstance(error, DependencyError)
    assert "tflite_runtime" in str(error)
    assert "pip install" in str(error)
