import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from torch import nn

from edgekd.compress import QuantizedProgram, quantize
from edgekd.errors import EdgekdError
from edgekd.export.tflite import export
from edgekd.export.tflite_pack import pack
from edgekd.models.layers import mean
from edgekd.readers.graph import FileGraph, bytes_moved, layout_changes
from edgekd.readers.tflite import read_graph
from edgekd.verify.readback import Readback, read_back
from tests.export.small import UNLABELLED, int8_content, quantized

FAMILIES = ["ds_cnn", "resnet"]


def unpacked(family: str) -> Any:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(int8_content(family), 0))


def graph_of(content: bytes, file: Path) -> FileGraph:
    file.write_bytes(content)
    return read_graph(file)


def judged(model: Any, family: str, file: Path) -> Readback:
    return read_back(quantized(family).table, graph_of(pack(model), file))


def quantized_tensors(family: str) -> list[int]:
    tensors = unpacked(family).subgraphs[0].tensors
    return [
        index
        for index, tensor in enumerate(tensors)
        if tensor.quantization is not None and tensor.quantization.scale is not None
    ]


def words_for(graph: FileGraph, index: int, family: str) -> set[str]:
    """The names under which a problem with this tensor may be told."""
    tensor = graph.tensors[index]
    owners = {entry.tensor for entry in quantized(family).table if entry.scale == tuple(map(float, tensor.scale))}
    return owners | {graph.describe(tensor)}


def is_bias(graph: FileGraph, index: int) -> bool:
    return graph.tensors[index].dtype == "int32"


def changed_scales(family: str) -> Iterator[tuple[int, int, Any]]:
    """Every quantized tensor with its first and its last scale moved by one unit in the last place."""
    for index in quantized_tensors(family):
        for place in (0, -1):
            model = unpacked(family)
            numbers = model.subgraphs[0].tensors[index].quantization
            numbers.scale = np.array(numbers.scale, dtype=np.float32)
            numbers.scale[place] = np.nextafter(numbers.scale[place], np.float32(np.inf))
            yield index, place, model


def changed_zero_points(family: str) -> Iterator[tuple[int, int, Any]]:
    for index in quantized_tensors(family):
        model = unpacked(family)
        numbers = model.subgraphs[0].tensors[index].quantization
        numbers.zeroPoint = np.array(numbers.zeroPoint, dtype=np.int64)
        numbers.zeroPoint[-1] += 1
        yield index, -1, model


def unnoticed(family: str, changes: Iterator[tuple[int, int, Any]], file: Path, biases: bool) -> list[str]:
    """The changed tensors for which read-back has no line that names them."""
    original, missed = graph_of(int8_content(family), file), []
    for index, place, model in changes:
        if is_bias(original, index) is biases:
            problems = judged(model, family, file).problems
            words = words_for(original, index, family)
            if not any(word in problem for problem in problems for word in words):
                missed.append(f"{original.describe(original.tensors[index])} [{place}]: {problems}")
    return missed


@pytest.mark.parametrize("family", FAMILIES)
def test_every_scale_of_a_good_file_is_exact(damaged: Path, family: str) -> None:
    result = judged(unpacked(family), family, damaged)
    assert result.problems == ()
    assert result.exact == result.learned == len(quantized(family).table) > 10


@pytest.mark.parametrize("family", FAMILIES)
def test_the_files_under_test_hold_every_kind_of_tensor(damaged: Path, family: str) -> None:
    graph, tensors = graph_of(int8_content(family), damaged), quantized_tensors(family)
    kinds = {(is_bias(graph, index), graph.tensors[index].constant is not None) for index in tensors}
    assert kinds == {(True, True), (False, True), (False, False)}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_scale_off_by_one_bit_is_caught_by_name(damaged: Path, family: str) -> None:
    assert unnoticed(family, changed_scales(family), damaged, biases=False) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_scale_of_a_bias_off_by_one_bit_is_caught(damaged: Path, family: str) -> None:
    assert unnoticed(family, changed_scales(family), damaged, biases=True) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_changed_zero_point_is_caught_by_name(damaged: Path, family: str) -> None:
    assert unnoticed(family, changed_zero_points(family), damaged, biases=False) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_changed_zero_point_of_a_bias_is_caught(damaged: Path, family: str) -> None:
    assert unnoticed(family, changed_zero_points(family), damaged, biases=True) == []


def test_a_bias_with_the_scale_of_another_layer_is_caught(damaged: Path) -> None:
    model = unpacked("ds_cnn")
    tensors, graph = model.subgraphs[0].tensors, graph_of(int8_content(), damaged)
    biases = [tensors[index] for index in quantized_tensors("ds_cnn") if is_bias(graph, index)]
    biases[1].quantization.scale, biases[2].quantization.scale = (
        biases[2].quantization.scale,
        biases[1].quantization.scale,
    )
    assert any("bias" in problem for problem in judged(model, "ds_cnn", damaged).problems)


@pytest.mark.parametrize("family", FAMILIES)
def test_any_two_activations_that_swapped_their_scales_are_caught(damaged: Path, family: str) -> None:
    original, missed = graph_of(int8_content(family), damaged), []
    activations = [index for index in quantized_tensors(family) if original.tensors[index].constant is None]
    for one, other in itertools.combinations(activations, 2):
        model = unpacked(family)
        tensors = model.subgraphs[0].tensors
        tensors[one].quantization, tensors[other].quantization = tensors[other].quantization, tensors[one].quantization
        if original.tensors[one].scale != original.tensors[other].scale and not judged(model, family, damaged).problems:
            missed.append([original.describe(original.tensors[index]) for index in (one, other)])
    assert missed == []


def test_per_channel_scales_along_another_axis_are_caught(damaged: Path) -> None:
    model, graph = unpacked("ds_cnn"), graph_of(int8_content(), damaged)
    index = next(
        one.index for one in graph.tensors if one.dtype == "int8" and one.axis == 0 and one.shape == (8, 1, 1, 8)
    )
    model.subgraphs[0].tensors[index].quantization.quantizedDimension = 3
    assert judged(model, "ds_cnn", damaged).problems


def test_a_quantizer_that_is_not_in_the_file_is_named(damaged: Path) -> None:
    table = quantized().table
    extra = dataclasses.replace(table[1], tensor="head.weight", scale=tuple(2 * one for one in table[1].scale))
    result = read_back([*table, extra], graph_of(int8_content(), damaged))
    assert result.learned == len(table) + 1
    assert result.exact == len(table)
    assert len(result.problems) == 1
    assert "'head.weight'" in result.problems[0]


def test_a_tensor_that_was_not_learned_is_told(damaged: Path) -> None:
    table = quantized().table[:-1]
    result = read_back(table, graph_of(int8_content(), damaged))
    assert result.exact == len(table)
    assert len(result.problems) == 1
    assert "'output'" in result.problems[0]


def test_a_damaged_file_never_crashes_what_looks_at_it(damaged: Path) -> None:
    rng, looked_at = np.random.default_rng(0), 0
    for _ in range(600):
        content = bytearray(int8_content())
        for place in rng.integers(len(content), size=rng.integers(1, 4)):
            content[place] = rng.integers(256)
        try:
            graph = graph_of(bytes(content), damaged)
            read_back(quantized().table, graph)
            bytes_moved(graph)
            layout_changes(graph)
            looked_at += 1
        except EdgekdError:
            continue
    assert looked_at > 0


class TwiceUsed(nn.Module):
    """One convolution called at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.shared = nn.Conv2d(6, 6, 3, padding=1)
        self.last = nn.Linear(6, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        features = torch.relu(self.first(inputs))
        features = torch.relu(self.shared(features)) + features
        return self.last(torch.relu(self.shared(features)).mean((2, 3)))


def test_a_layer_used_twice_has_one_scale_and_is_found(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(32, 1, 8, 8)

    def train(model: nn.Module) -> None:
        optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], 1e-2)
        model.train()
        for _ in range(3):
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            optimizer.step()

    program = quantize(TwiceUsed(), inputs, train)
    assert [entry.tensor for entry in program.table].count("shared.weight") == 1
    file = tmp_path / "twice.tflite"
    export(program.frozen(stored=False), program.example, file, "int8", UNLABELLED)
    result = read_back(program.table, read_graph(file))
    assert result.problems == ()
    assert result.exact == result.learned


class Saturated(nn.Module):
    """All of its numbers are 6: they are padded for one layer and averaged for another."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3)
        self.second = nn.Conv2d(6, 6, 3, stride=2, padding=1)
        self.last = nn.Linear(6, 3)
        nn.init.constant_(self.first.bias, 20.0)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        features = nn.functional.relu6(self.first(inputs))
        return self.last(mean(features) + mean(self.second(features)))


@pytest.fixture(scope="module")
def saturated(tmp_path_factory: pytest.TempPathFactory) -> tuple[QuantizedProgram, bytes]:
    torch.manual_seed(0)
    program = quantize(Saturated(), torch.randn(32, 1, 8, 8))
    file = tmp_path_factory.mktemp("saturated") / "model.tflite"
    export(program.frozen(stored=False), program.example, file, "int8", UNLABELLED)
    return program, file.read_bytes()


def test_a_mean_that_learned_the_numbers_of_its_input_is_found(
    saturated: tuple[QuantizedProgram, bytes], damaged: Path
) -> None:
    program, content = saturated
    features, average = program.table[2], program.table[3]
    assert (average.sources, average.scale, average.zero_point) == ((2,), features.scale, features.zero_point)
    result = read_back(program.table, graph_of(content, damaged))
    assert result.problems == ()
    assert result.exact == result.learned


def test_a_mean_that_does_not_hold_them_is_told(saturated: tuple[QuantizedProgram, bytes], damaged: Path) -> None:
    program, content = saturated
    average = dataclasses.replace(program.table[3], scale=(2 * program.table[3].scale[0],))
    result = read_back((*program.table[:3], average, *program.table[4:]), graph_of(content, damaged))
    assert f"'{average.tensor}'" in " ".join(result.problems)
