"""What the sessions of all runtimes offer alike."""

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgekd.compress import QuantizedProgram, nncf_backend
from edgekd.errors import UsageError
from edgekd.export.ort import convert
from edgekd.readers import read_graph
from edgekd.readers.graph import FileTensor
from edgekd.runtimes import open_session
from edgekd.runtimes.session import Session, real_values
from tests.export import small
from tests.export.small import SHAPE, quantized

FORMATS = ("tflite", "onnx", "openvino")
FAMILIES = ("ds_cnn", "resnet")


def exported(name: str, folder: Path, family: str = "ds_cnn", raw_pixels: bool = True) -> Path:
    if name == "tflite":
        return small.exported(folder, "tflite", family)
    card = "pixels" if raw_pixels else "features"
    if name == "ort":
        file = small.exported(folder, "onnx", family, card=card)
        convert(file, file.with_suffix(".ort"))
        return file.with_suffix(".ort")
    return small.exported(folder, name, family, card=card)


def on_the_grid(seed: int = 0) -> torch.Tensor:
    """One input that the input's quantizer does not round."""
    pixels = np.random.default_rng(seed).integers(0, 256, (1, *SHAPE)).astype(np.float32)
    return torch.from_numpy((pixels - 128) / 64)


def learned_outputs(program: QuantizedProgram, inputs: torch.Tensor) -> dict[int, np.ndarray]:
    """What each activation's quantizer of the trained model gives, by its position in the table."""
    found: dict[int, np.ndarray] = {}
    hooks = [
        placed.quantizer.register_forward_hook(
            lambda module, given, output, position=position: found.update({position: output.detach().numpy()})
        )
        for position, placed in enumerate(nncf_backend.quantizers_of(program.model, program.example))
        if not placed.is_weight
    ]
    with torch.no_grad():
        program.model(inputs)
    for hook in hooks:
        hook.remove()
    return found


def channels_first(values: np.ndarray, session: Session) -> np.ndarray:
    return values.transpose(0, 3, 1, 2) if session.channels_last and values.ndim == 4 else values


def has_scale(tensor: FileTensor, scale: float) -> bool:
    """A range, which OpenVINO's files hold instead, gives its scale back within a rounding error."""
    wanted = np.float32(scale)
    return tensor.scale == (wanted if tensor.bounds is None else pytest.approx(wanted, rel=1e-6),)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("name", "raw_pixels"),
    [("tflite", True), ("onnx", True), ("onnx", False), ("openvino", True), ("openvino", False)],
)
def test_inner_tensors_are_what_the_quantizers_of_the_trained_model_give(
    name: str, raw_pixels: bool, family: str, tmp_path: Path
) -> None:
    file, program, inputs = exported(name, tmp_path, family, raw_pixels), quantized(family), on_the_grid()
    graph, session = read_graph(file), open_session(file)
    tensors = session.tensors(session.encode(inputs.numpy())[0])
    for position, expected in learned_outputs(program, inputs).items():
        entry = program.table[position]
        found = [
            channels_first(values, session)
            for index, values in tensors.items()
            if has_scale(graph.tensors[index], entry.scale[0]) and values.size == expected.size
        ]
        assert found, entry.tensor
        for values in found:
            assert values.dtype == np.float32
            assert np.abs(values.reshape(expected.shape) - expected).max() <= 1.01 * entry.scale[0], entry.tensor
            assert len(np.unique(values)) > 3, entry.tensor


@pytest.mark.parametrize("name", FORMATS)
def test_inner_tensors_end_in_the_output_and_follow_the_sample(name: str, tmp_path: Path) -> None:
    file = exported(name, tmp_path)
    graph, session = read_graph(file), open_session(file)
    step = quantized().output_scale
    answers = []
    for seed in (0, 1):
        sample = session.encode(on_the_grid(seed).numpy())
        tensors = session.tensors(sample[0])
        assert tensors.keys() == {one.index for one in graph.tensors if one.scale and one.constant is None}
        assert all(values.shape == graph.tensors[index].shape for index, values in tensors.items())
        last = next(values for index, values in tensors.items() if has_scale(graph.tensors[index], step))
        np.testing.assert_allclose(last[0], session.decode(session.run(sample))[0], atol=1.01 * step)
        answers.append(last)
    assert np.abs(answers[0] - answers[1]).max() > step


@pytest.mark.parametrize("name", FORMATS)
def test_asking_for_inner_tensors_leaves_the_session_as_it_was(name: str, tmp_path: Path) -> None:
    session = open_session(exported(name, tmp_path))
    samples = session.encode(np.concatenate([on_the_grid(seed).numpy() for seed in range(3)]))
    before = session.run(samples)
    session.tensors(samples[0])
    np.testing.assert_array_equal(session.run(samples), before)


@pytest.mark.parametrize("name", FORMATS)
def test_a_float_model_has_no_quantized_tensors(name: str, tmp_path: Path) -> None:
    session = open_session(small.exported(tmp_path, name, precision="float32"))
    assert session.tensors(session.encode(on_the_grid().numpy())[0]) == {}


def test_the_inner_tensors_of_an_ort_file_are_refused(tmp_path: Path) -> None:
    session = open_session(exported("ort", tmp_path))
    with pytest.raises(UsageError, match=r"model\.ort: .*\.onnx file"):
        session.tensors(session.encode(on_the_grid().numpy())[0])


@pytest.mark.parametrize(("dtype", "shift"), [(np.int8, 0), (np.uint8, 128)])
def test_integers_of_both_kinds_stand_for_the_same_values(dtype: type, shift: int) -> None:
    tensor = FileTensor(0, "", (256,), np.dtype(dtype).name, None, (np.float32(0.25),), (-7,))
    numbers = (np.arange(-128, 128) + shift).astype(dtype)
    np.testing.assert_array_equal(real_values(tensor, numbers), 0.25 * (np.arange(-128, 128) + 7))


@pytest.mark.parametrize("name", [*FORMATS, "ort"])
def test_the_load_time_is_part_of_the_time_that_opening_takes(name: str, tmp_path: Path) -> None:
    file = exported(name, tmp_path)
    started = time.perf_counter_ns()
    session = open_session(file)
    assert 0 < session.load_ns < time.perf_counter_ns() - started


def test_an_onnx_file_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, parsed, load = exported("onnx", tmp_path), [], onnx.load
    monkeypatch.setattr(onnx, "load", lambda *args, **settings: parsed.append(args) or load(*args, **settings))
    session = open_session(file)
    assert len(parsed) == 1
    assert session.inputs[0].scale == 1 / 64


@pytest.mark.parametrize("content", [b"", b"\x1c\0\0\0TFL3" + bytes(64), b"\x1c\0\0\0ORTM" + bytes(64)])
def test_what_is_no_ort_model_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.ort").write_bytes(content)
    with pytest.raises(UsageError, match=r"model\.ort"):
        open_session(tmp_path / "model.ort")
