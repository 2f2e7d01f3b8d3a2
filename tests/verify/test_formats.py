"""The same program in ONNX and OpenVINO: its scales are found, its answers are the same, damage is seen."""

import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from edgekd.errors import EdgekdError, UsageError
from edgekd.export.formats import export_program
from edgekd.models.evaluate import predict
from edgekd.readers import read_graph
from edgekd.readers.graph import FileGraph
from edgekd.runtimes import open_session
from edgekd.verify import parity
from edgekd.verify.readback import read_back
from tests.export import small
from tests.export.small import PIXELS, SHAPE, quantized, samples, student

FORMATS = ("onnx", "openvino")
FAMILIES = ("ds_cnn", "resnet")


@pytest.fixture(scope="module", params=[(name, family) for name in FORMATS for family in FAMILIES], ids="-".join)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    name, family = request.param
    return small.exported(tmp_path_factory.mktemp("export"), name, family, card="pixels"), family


@pytest.fixture(scope="module", params=FORMATS)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.exported(tmp_path_factory.mktemp("export"), request.param, card="pixels")


def copied(file: Path, folder: Path) -> Path:
    for part in file.parent.iterdir():
        shutil.copy(part, folder / part.name)
    return folder / file.name


def problems(file: Path, graph: FileGraph | None = None) -> tuple[str, ...]:
    return read_back(quantized().table, graph or read_graph(file)).problems


def test_every_learned_scale_is_found(exported: tuple[Path, str]) -> None:
    file, family = exported
    result = read_back(quantized(family).table, read_graph(file))
    assert result.problems == ()
    assert result.exact == result.learned == len(quantized(family).table)


def test_it_answers_like_the_trained_model(exported: tuple[Path, str]) -> None:
    file, family = exported
    result = parity(file, quantized(family), samples(200))
    assert result.agreement >= 0.99
    assert result.max_lsb is not None
    assert result.max_lsb <= 4


def test_raw_pixels_go_in(file: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, *SHAPE), dtype=np.uint8)
    session = open_session(file)
    assert session.inputs[0].dtype == "uint8"
    normalised = torch.from_numpy((pixels.astype(np.float32) - 128) / 64)
    np.testing.assert_array_equal(session.encode(normalised.numpy()), pixels)
    step = quantized().output_scale
    np.testing.assert_allclose(session.run(pixels), predict(quantized().model, normalised), atol=4 * step)


def test_the_work_is_done_on_integers(file: Path) -> None:
    placement = open_session(file).placement()
    assert placement.undelegated == ()
    assert placement.total > 5


@pytest.mark.parametrize("name", FORMATS)
def test_without_raw_pixels_the_input_is_float(name: str, tmp_path: Path) -> None:
    file = small.exported(tmp_path, name)
    assert open_session(file).inputs[0].dtype == "float32"
    assert problems(file) == ()


@pytest.mark.parametrize("name", FORMATS)
def test_a_float_model_is_the_torch_model(name: str, tmp_path: Path) -> None:
    file = small.exported(tmp_path, name, precision="float32")
    session = open_session(file)
    inputs = samples(10)
    np.testing.assert_allclose(session.run(session.encode(inputs.numpy())), predict(student(), inputs), atol=1e-4)
    assert session.placement().undelegated == ()


@pytest.mark.parametrize("name", FORMATS)
def test_exporting_twice_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    export_program(quantized(), name, "int8", tmp_path, PIXELS)
    again = {part.name: part.read_bytes() for part in tmp_path.iterdir()}
    assert again == small.contents("ds_cnn", name, "int8", "pixels")


def one_ulp_up(value: float) -> np.float32:
    return np.nextafter(np.float32(value), np.float32(np.inf))


def changed_onnx(file: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """Every scale of an ONNX file, and how to change one number of it."""
    scales = {node.input[1] for node in onnx.load(str(file)).graph.node if node.op_type.endswith("Linear")}
    for name in sorted(scales):

        def change(name: str = name) -> None:
            model = onnx.load(str(file))
            tensor = next(one for one in model.graph.initializer if one.name == name)
            values = numpy_helper.to_array(tensor).copy()
            values.flat[-1] = one_ulp_up(values.flat[-1])
            tensor.CopyFrom(numpy_helper.from_array(values, name))
            onnx.save(model, str(file))

        yield name, change


def test_one_changed_scale_of_an_onnx_file_is_caught_by_name(tmp_path: Path) -> None:
    file = small.exported(tmp_path, "onnx", card="pixels")
    content = file.read_bytes()
    names = [entry.tensor for entry in quantized().table]
    planted = 0
    for scale, change in changed_onnx(file):
        file.write_bytes(content)
        change()
        found = problems(file)
        assert found, scale
        assert any(f"'{name}'" in found[0] for name in names), found
        planted += 1
    assert planted >= len(names)


def test_one_changed_number_of_an_openvino_file_is_caught_by_name(tmp_path: Path) -> None:
    file = small.exported(tmp_path, "openvino", card="pixels")
    binary = file.with_suffix(".bin")
    content = binary.read_bytes()
    names = [entry.tensor for entry in quantized().table]
    planted = 0
    for entry in quantized().table:
        numbers = {entry.scale[0]}
        if entry.kind == "activation":
            numbers = {float(np.float32(entry.high - entry.zero_point[0]) * np.float32(entry.scale[0]))}
        for number in numbers:
            place = content.find(struct.pack("<f", number))
            if place < 0:
                continue
            changed = bytearray(content)
            changed[place : place + 4] = struct.pack("<f", one_ulp_up(number))
            binary.write_bytes(bytes(changed))
            found = problems(file)
            assert found, entry.tensor
            assert any(f"'{name}'" in found[0] for name in names), found
            planted += 1
    assert planted >= len(names) - 1


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, -12])
def test_a_truncated_file_is_refused(file: Path, keep: float, tmp_path: Path) -> None:
    broken = copied(file, tmp_path)
    content = broken.read_bytes()
    broken.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(EdgekdError) as caught:
        open_session(broken)
    assert "\n" not in str(caught.value)


def test_flipped_bytes_never_crash_the_reader(file: Path, tmp_path: Path) -> None:
    broken = copied(file, tmp_path)
    content, random, read = broken.read_bytes(), np.random.default_rng(0), 0
    for _ in range(150):
        changed = bytearray(content)
        for place in random.integers(len(content), size=3):
            changed[place] = random.integers(256)
        broken.write_bytes(bytes(changed))
        try:
            problems(broken)
            read += 1
        except EdgekdError:
            continue
    assert read >= 0


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".tflite"])
@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(64)])
def test_another_format_under_the_suffix_is_refused(suffix: str, content: bytes, tmp_path: Path) -> None:
    wrong = tmp_path / f"model{suffix}"
    wrong.write_bytes(content)
    with pytest.raises(UsageError):
        open_session(wrong)
    with pytest.raises(UsageError):
        read_graph(wrong)


def test_data_outside_the_folder_is_refused(tmp_path: Path) -> None:
    file = small.exported(tmp_path, "onnx")
    model = onnx.load(str(file))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "../../etc/passwd"), ("offset", "0"), ("length", "16")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    file.write_bytes(model.SerializeToString())
    with pytest.raises(UsageError, match="another file"):
        open_session(file)


def test_an_ir_without_its_weights_is_refused(tmp_path: Path) -> None:
    file = small.exported(tmp_path, "openvino")
    file.with_suffix(".bin").unlink()
    with pytest.raises(UsageError, match=r"model\.bin"):
        open_session(file)
