"""Operations that XNNPACK has in float alone, as float islands of an int8 file."""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgekd.compress import QuantizedProgram, quantize
from edgekd.errors import DeviceError
from edgekd.export import tflite_widen
from edgekd.export.formats import export_program
from edgekd.export.tflite_widen import widen
from edgekd.models.evaluate import predict
from edgekd.readers.graph import FileGraph
from edgekd.readers.tflite import read_graph
from edgekd.runtimes.litert import LiteRTSession
from edgekd.verify.readback import read_back
from tests.compress.students import noise
from tests.export.small import UNLABELLED, int8_content

WIDTH, CLASSES = 16, 5
Function = Callable[[torch.Tensor], torch.Tensor]
FUNCTIONS: dict[str, Function] = {
    "GELU": F.gelu,
    "HARD_SWISH": F.hardswish,
    "SOFTMAX": functools.partial(torch.softmax, dim=-1),
    "EXP": torch.exp,
}
INT8_KERNELS = ("GELU", "HARD_SWISH", "EXP")
"""Those that LiteRT has in int8 for scales of any size, outside of its delegate."""


class Between(nn.Module):
    """A function between linear layers, at one of several places."""

    def __init__(self, function: Function, place: str) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(WIDTH, 32), nn.Linear(32, 32), nn.Linear(32, CLASSES)
        self.function, self.place = function, place

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        features = self.first(inputs)
        if self.place == IN_A_ROW:
            features = self.second(self.function(features))
            return self.last(self.function(features))
        if self.place == "beside a residual":
            return self.last(self.second(self.function(features)) + features)
        if self.place == "used twice":
            moved = self.function(features)
            return self.last(self.second(moved) + moved)
        return self.function(self.last(features))


IN_A_ROW = "twice in a row"
CASES = [
    *((op, IN_A_ROW) for op in FUNCTIONS),
    *(("GELU", place) for place in ("beside a residual", "used twice", "at the end")),
    *(("SOFTMAX", place) for place in ("used twice", "at the end")),
]
every_case = pytest.mark.parametrize(("op", "place"), CASES)


@functools.cache
def program(op: str, place: str) -> QuantizedProgram:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Between(FUNCTIONS[op], place)
        if op == "SOFTMAX":  # of larger numbers, it does not make all of them alike
            for layer in (model.first, model.second):
                nn.init.normal_(layer.weight)
    return quantize(model, noise((WIDTH,), 64))


@functools.cache
def content(op: str, place: str, widened: bool = True) -> bytes:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        if not widened:
            patch.setattr(tflite_widen, "widen", lambda content: content)
        return export_program(program(op, place), "tflite", "int8", Path(folder), UNLABELLED).read_bytes()


def written(content: bytes, folder: Path) -> Path:
    file = folder / "model.tflite"
    file.write_bytes(content)
    return file


def inputs() -> torch.Tensor:
    return noise((WIDTH,), 100, seed=1)


def answers(file: Path) -> np.ndarray:
    """int8, shape (N, classes)."""
    session = LiteRTSession(file)
    return session.run(session.encode(inputs().numpy()))


def dtypes(graph: FileGraph, indices: tuple[int, ...]) -> list[str]:
    return [graph.tensors[index].dtype for index in indices]


@every_case
def test_it_stands_in_float_between_dequantize_and_quantize(op: str, place: str, tmp_path: Path) -> None:
    graph = read_graph(written(content(op, place), tmp_path))
    makers = {index: node for node in graph.nodes for index in node.outputs}
    wide = [node for node in graph.nodes if node.op == op]
    assert len(wide) == (2 if place == IN_A_ROW else 1)
    for node in wide:
        assert dtypes(graph, (*node.inputs, *node.outputs)) == ["float32", "float32"]
        before = makers[node.inputs[0]]
        (after,) = (one for one in graph.nodes if node.outputs[0] in one.inputs)
        assert (before.op, after.op) == ("DEQUANTIZE", "QUANTIZE")
        assert dtypes(graph, (*before.inputs, *after.outputs)) == ["int8", "int8"]
    layers = [node for node in graph.nodes if node.op in ("FULLY_CONNECTED", "ADD")]
    assert {dtype for node in layers for dtype in dtypes(graph, (*node.inputs[:2], *node.outputs))} == {"int8"}
    assert dtypes(graph, (*graph.inputs, *graph.outputs)) == ["int8", "int8"]


@every_case
def test_one_delegate_takes_all_of_it(op: str, place: str, tmp_path: Path) -> None:
    placement = LiteRTSession(written(content(op, place), tmp_path)).placement()
    assert placement.undelegated == ()
    assert placement.delegates == 1


@every_case
def test_every_scale_is_the_learned_one(op: str, place: str, tmp_path: Path) -> None:
    result = read_back(program(op, place).table, read_graph(written(content(op, place), tmp_path)))
    assert result.problems == ()
    assert result.exact == result.learned == len(program(op, place).table)


@every_case
def test_it_answers_like_the_trained_model(op: str, place: str, tmp_path: Path) -> None:
    file, trained = written(content(op, place), tmp_path), program(op, place)
    found = LiteRTSession(file).decode(answers(file))
    expected = predict(trained.model, inputs())
    assert np.abs(found - expected).max() <= 2.01 * trained.output_scale
    assert len(np.unique(expected.round(4))) > 50


@pytest.mark.parametrize(("op", "place"), [case for case in CASES if case[0] in INT8_KERNELS])
def test_it_answers_as_the_int8_kernel_does_within_two_steps(op: str, place: str, tmp_path: Path) -> None:
    narrow = written(content(op, place, widened=False), tmp_path)
    assert op in [node.op for node in read_graph(narrow).nodes]
    assert LiteRTSession(narrow).placement().undelegated != ()
    before = answers(narrow).astype(int)
    after = answers(written(content(op, place), tmp_path)).astype(int)
    assert np.abs(after - before).max() <= 2
    assert len(np.unique(before)) > 30


def test_a_softmax_of_learned_scale_is_taken_only_in_float(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="SOFTMAX"):
        LiteRTSession(written(content("SOFTMAX", "used twice", widened=False), tmp_path))
    assert LiteRTSession(written(content("SOFTMAX", "used twice"), tmp_path)).placement().delegates == 1


@pytest.mark.parametrize("op", FUNCTIONS)
def test_a_second_time_changes_nothing(op: str) -> None:
    once = content(op, IN_A_ROW)
    assert widen(once) is once


def test_a_file_without_such_operations_stays_as_it_is() -> None:
    assert widen(int8_content()) is int8_content()
