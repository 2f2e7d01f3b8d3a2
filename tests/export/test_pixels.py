"""Models of raw pixels in every format and precision: the app hands over the pixels, the file normalises them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.compress.quantizers import kept
from edgekd.models.evaluate import predict
from edgekd.readers import read_graph
from edgekd.runtimes import open_session
from edgekd.target import Format, Precision
from edgekd.verify.coverage import float_islands
from edgekd.verify.readback import read_back
from tests.export.small import SHAPE, exported, quantized, student

FORMATS: tuple[Format, ...] = ("tflite", "onnx", "openvino")
PRECISIONS: tuple[Precision, ...] = ("int8", "int8-weights", "float16", "float32")
FLOATS = PRECISIONS[1:]
MEAN, STD = 128, 64.0


def pixels(count: int = 20) -> np.ndarray:
    """As the app has them, channels first: every value is among them."""
    values = np.random.default_rng(0).integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    values.ravel()[:256] = np.arange(256)
    return values


def normalised() -> torch.Tensor:
    return torch.from_numpy((pixels().astype(np.float32) - MEAN) / np.float32(STD))


def source(precision: Precision) -> nn.Module:
    return {"int8": quantized().model, "int8-weights": quantized().weights_only()}.get(precision, student())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", FORMATS)
def test_the_pixels_of_the_app_give_the_answers_of_torch(name: Format, precision: Precision, tmp_path: Path) -> None:
    session = open_session(exported(tmp_path, name, precision=precision, card="pixels"))
    spec, given = session.inputs[0], pixels()
    if session.channels_last:
        given = given.transpose(0, 2, 3, 1)
    if precision == "int8":
        given = given.astype(np.int16) + (spec.zero_point - MEAN)
    found = session.decode(session.run(np.ascontiguousarray(given.astype(spec.dtype))))
    off = {"int8": 4 * quantized().output_scale, "float16": 0.02}.get(precision, 1e-4)
    np.testing.assert_allclose(found, predict(source(precision), normalised()), atol=off)
    assert np.ptp(found) > 10 * off


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", FORMATS)
def test_model_inputs_become_the_pixels_again(name: Format, precision: Precision, tmp_path: Path) -> None:
    session = open_session(exported(tmp_path, name, precision=precision, card="pixels"))
    encoded = session.encode(normalised().numpy(), (MEAN, STD))
    expected = pixels().transpose(0, 2, 3, 1) if session.channels_last else pixels()
    if precision == "int8":
        expected = expected.astype(np.int16) + (session.inputs[0].zero_point - MEAN)
    assert encoded.dtype == session.inputs[0].dtype
    np.testing.assert_array_equal(encoded, expected)


@pytest.mark.parametrize("precision", FLOATS)
def test_a_float_file_takes_what_its_format_has_for_pixels(precision: Precision, tmp_path: Path) -> None:
    dtypes = {}
    for name in FORMATS:
        folder = tmp_path / name
        folder.mkdir()
        dtypes[name] = open_session(exported(folder, name, precision=precision, card="pixels")).inputs[0].dtype
    assert dtypes == {"tflite": "float32", "onnx": "uint8", "openvino": "uint8"}


@pytest.mark.parametrize("name", FORMATS)
def test_pixels_beyond_the_range_are_clipped_to_it(name: Format, tmp_path: Path) -> None:
    session = open_session(exported(tmp_path, name, precision="float32", card="pixels"))
    far = np.full((1, *SHAPE), 1e4, dtype=np.float32)
    for values, expected in ((far, 255), (-far, 0)):
        np.testing.assert_array_equal(np.unique(session.encode(values, (MEAN, STD))), [expected])


@pytest.mark.parametrize("precision", FLOATS)
@pytest.mark.parametrize("name", FORMATS)
def test_the_pixels_are_no_quantized_activations(name: Format, precision: Precision, tmp_path: Path) -> None:
    graph = read_graph(exported(tmp_path, name, precision=precision, card="pixels"))
    assert float_islands(graph) == []
    table = kept(quantized().table, precision)
    result = read_back(table, graph)
    assert (result.problems, result.exact) == ((), len(table))


@pytest.mark.parametrize("name", FORMATS)
def test_the_normalisation_costs_no_operation_outside_the_fast_path(name: Format, tmp_path: Path) -> None:
    for precision in FLOATS:
        placement = open_session(exported(tmp_path, name, precision=precision, card="pixels")).placement()
        assert placement.undelegated == ()
        assert placement.delegates == 1
