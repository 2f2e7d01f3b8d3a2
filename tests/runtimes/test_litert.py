from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import nn

from edgekd.errors import DeviceError, UsageError
from edgekd.export.formats import export_float
from edgekd.runtimes.litert import LiteRTSession
from edgekd.runtimes.session import TensorSpec
from tests.export.small import UNLABELLED, int8_content


def spec(scale: float, zero_point: int, dtype: str = "int8") -> TensorSpec:
    return TensorSpec("input", (1, 3), dtype, scale, zero_point)


@pytest.mark.parametrize(
    ("real", "number"),
    [
        (0.0, 3),
        (0.5, 4),
        (0.6, 4),
        (0.8, 5),
        (-1.0, 1),
        (61.9, 127),
        (62.0, 127),
        (1e6, 127),
        (-65.5, -128),
        (-1e6, -128),
    ],
)
def test_a_real_is_rounded_to_the_nearest_number_and_clipped(real: float, number: int) -> None:
    found = spec(0.5, 3).quantize(np.array([[real]], dtype=np.float32))
    assert found.dtype == np.int8
    assert found.tolist() == [[number]]


def test_unsigned_numbers_are_clipped_at_zero() -> None:
    found = spec(2.0, 10, "uint8").quantize(np.array([-100.0, -20.0, 0.0, 490.0, 600.0]))
    assert found.dtype == np.uint8
    assert found.tolist() == [0, 0, 10, 255, 255]


def test_every_number_stands_for_its_real() -> None:
    numbers = np.arange(-128, 128, dtype=np.int8)
    found = spec(0.25, -7).dequantize(numbers)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, 0.25 * (np.arange(-128, 128) + 7))


@pytest.mark.parametrize("zero_point", [-128, 0, 127])
def test_every_number_comes_back_from_its_real(zero_point: int) -> None:
    numbers, one = np.arange(-128, 128, dtype=np.int8), spec(0.0123, zero_point)
    np.testing.assert_array_equal(one.quantize(one.dequantize(numbers)), numbers)


def test_a_float_tensor_takes_reals_as_they_are() -> None:
    reals, one = np.array([1.25, -3.5]), spec(0.0, 0, "float32")
    assert one.quantize(reals).dtype == np.float32
    np.testing.assert_array_equal(one.quantize(reals), reals)
    np.testing.assert_array_equal(one.dequantize(reals), reals)


def test_inputs_and_outputs_of_a_file(int8_file: Path) -> None:
    session = LiteRTSession(int8_file)
    (source,), (sink,) = session.inputs, session.outputs
    assert (source.name, source.shape, source.dtype) == ("input", (1, 8, 6, 3), "int8")
    assert (source.scale, source.zero_point) == (1 / 64, 0)
    assert (sink.name, sink.shape, sink.dtype) == ("output", (1, 4), "int8")


def test_samples_are_run_one_by_one(int8_file: Path) -> None:
    samples = np.random.default_rng(0).integers(-128, 128, (5, 8, 6, 3), dtype=np.int8)
    direct = Interpreter(model_content=int8_content())
    direct.allocate_tensors()
    outputs = []
    for sample in samples:
        direct.set_tensor(direct.get_input_details()[0]["index"], sample[None])
        direct.invoke()
        outputs.append(direct.get_tensor(direct.get_output_details()[0]["index"])[0])
    np.testing.assert_array_equal(LiteRTSession(int8_file).run(samples), np.stack(outputs))


@pytest.mark.parametrize("name", ["int8_file", "float_file"])
def test_a_good_file_is_delegated_as_a_whole(request: pytest.FixtureRequest, name: str) -> None:
    session = LiteRTSession(request.getfixturevalue(name))
    assert session.placement().undelegated == ()
    assert session.placement().delegates == 1


class Running(nn.Module):
    """A running sum, which XNNPACK does not take, between layers that it does."""

    def __init__(self, sums: int) -> None:
        super().__init__()
        self.first, self.last, self.sums = nn.Linear(8, 8), nn.Linear(8, 4), sums

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        features = self.first(inputs)
        for _ in range(self.sums):
            features = torch.relu(torch.cumsum(features, 1))
        return self.last(features) + inputs[:, :4]


@pytest.mark.parametrize("sums", [1, 2])
def test_a_node_that_no_delegate_took_is_named(tmp_path: Path, sums: int) -> None:
    session = LiteRTSession(export_float(Running(sums), torch.zeros(1, 8), "tflite", "float32", tmp_path, UNLABELLED))
    names = [node["op_name"] for node in session._interpreter._get_ops_details() if node["op_name"] != "DELEGATE"]
    expected = [f"{position}:CUMSUM" for position, name in enumerate(names) if name == "CUMSUM"]
    assert len(expected) == sums
    assert list(session.placement().undelegated) == expected
    assert session.placement().delegates >= 2


@pytest.mark.parametrize(
    "content", [b"", b"TFL3", b"hello, this is not a model", b"\x1c\0\0\0TFL2" + b"\0" * 99], ids=repr
)
def test_what_is_not_a_model_is_refused_by_name(damaged: Path, content: bytes) -> None:
    damaged.write_bytes(content)
    with pytest.raises(UsageError, match=r"damaged\.tflite: not a TFLite model"):
        LiteRTSession(damaged)


@pytest.mark.parametrize("name", ["gone.tflite", ""])
def test_what_is_not_a_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be read") as caught:
        LiteRTSession(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_model_is_refused_by_the_runtime_in_one_line(damaged: Path, share: float) -> None:
    damaged.write_bytes(int8_content()[: int(share * len(int8_content()))])
    with pytest.raises(DeviceError, match=r"damaged\.tflite") as caught:
        LiteRTSession(damaged)
    assert "\n" not in str(caught.value)
