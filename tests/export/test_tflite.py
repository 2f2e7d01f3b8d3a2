import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from torch import nn

from edgekd.compress import quantize
from edgekd.errors import ExportError
from edgekd.export.formats import export_float, export_program
from edgekd.export.tflite_pack import pack, slim
from edgekd.models.evaluate import predict
from edgekd.readers import read_graph
from edgekd.readers.graph import layout_changes
from tests.export.small import (
    FEATURES,
    UNLABELLED,
    bare_content,
    float_content,
    int8_content,
    quantized,
    samples,
    student,
)


def interpreter(content: bytes) -> Interpreter:
    loaded = Interpreter(model_content=content)
    loaded.allocate_tensors()
    return loaded


def run(content: bytes, inputs: np.ndarray) -> np.ndarray:
    loaded, outputs = interpreter(content), []
    for one in inputs:
        loaded.set_tensor(loaded.get_input_details()[0]["index"], one[None])
        loaded.invoke()
        outputs.append(loaded.get_tensor(loaded.get_output_details()[0]["index"])[0])
    return np.stack(outputs)


def int8_noise(count: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(-128, 128, (count, 8, 6, 3), dtype=np.int8)


def scales(content: bytes) -> list[tuple[bytes, list[int]]]:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    return [
        (np.asarray(tensor.quantization.scale, dtype=np.float32).tobytes(), list(tensor.quantization.zeroPoint))
        for tensor in model.subgraphs[0].tensors
        if tensor.quantization is not None and tensor.quantization.scale is not None
    ]


def data_positions(content: bytes) -> Iterator[int]:
    """Where the data of every buffer starts in the file, found in the raw table."""
    model = schema.Model.GetRootAs(content, 0)
    for index in range(model.BuffersLength()):
        table = model.Buffers(index)._tab
        field = table.Offset(4)
        if field and table.VectorLen(field):
            yield table.Vector(field)


def test_int8_in_and_out_channels_last_one_sample() -> None:
    loaded = interpreter(int8_content())
    (source,), (sink,) = loaded.get_input_details(), loaded.get_output_details()
    assert source["dtype"] == sink["dtype"] == np.int8
    assert source["shape"].tolist() == [1, 8, 6, 3]
    assert sink["shape"].tolist() == [1, 4]


def test_input_and_output_have_the_learned_scales() -> None:
    loaded, table = interpreter(int8_content()), quantized().table
    for detail, entry in ((loaded.get_input_details()[0], table[0]), (loaded.get_output_details()[0], table[-1])):
        assert detail["quantization"] == (entry.scale[0], entry.zero_point[0])
    assert table[0].scale == (1 / 64,)
    assert table[0].zero_point == (0,)


def test_the_int8_file_answers_like_the_trained_model() -> None:
    source, sink = quantized().table[0], quantized().table[-1]
    numbers = np.clip(np.round(samples().numpy() / source.scale[0]) + source.zero_point[0], -128, 127)
    found = run(int8_content(), numbers.astype(np.int8).transpose(0, 2, 3, 1))
    real = (found.astype(np.float32) - sink.zero_point[0]) * sink.scale[0]
    expected = predict(quantized().model, samples())
    assert np.abs(real - expected).max() <= 2.5 * sink.scale[0]
    assert len(np.unique(found)) > 50


def test_the_float_file_answers_like_torch() -> None:
    found = run(float_content(), np.ascontiguousarray(samples().numpy().transpose(0, 2, 3, 1)))
    np.testing.assert_allclose(found, predict(student(), samples()), atol=1e-4)


def test_slimming_changes_no_output() -> None:
    np.testing.assert_array_equal(run(bare_content(), int8_noise()), run(bare_content(slimmed=False), int8_noise()))


def test_slimming_changes_no_scale() -> None:
    assert len(scales(bare_content())) > 10
    assert scales(bare_content()) == scales(bare_content(slimmed=False))


def test_slimming_makes_the_file_smaller_once() -> None:
    assert len(bare_content()) < len(bare_content(slimmed=False))
    assert slim(bare_content()) == bare_content()


def test_slimming_keeps_one_copy_of_equal_data() -> None:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bare_content(), 0))
    used = next(tensor for tensor in model.subgraphs[0].tensors if model.buffers[tensor.buffer].data is not None)
    model.buffers.append(copy.deepcopy(model.buffers[used.buffer]))
    used.buffer = len(model.buffers) - 1
    doubled = pack(model)
    assert len(doubled) > len(bare_content())
    assert len(slim(doubled)) == len(bare_content())
    np.testing.assert_array_equal(run(slim(doubled), int8_noise(5)), run(bare_content(), int8_noise(5)))


def test_slimming_leaves_no_data_that_nothing_reads() -> None:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bare_content(), 0))
    left_over = schema.BufferT()
    left_over.data = np.arange(200, dtype=np.uint8)
    model.buffers.append(left_over)
    assert len(pack(model)) > len(bare_content()) + 200
    assert slim(pack(model)) == bare_content()


def test_slimming_again_takes_the_metadata_out() -> None:
    assert slim(int8_content()) == bare_content()


def zero_points(content: bytes) -> Iterator[tuple[bytes, int]]:
    """The zero points of every quantized tensor, and where they are in the file."""
    graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    for index in range(graph.TensorsLength()):
        quantization = graph.Tensors(index).Quantization()
        field = quantization._tab.Offset(10) if quantization is not None else 0
        if field:
            yield quantization.ZeroPointAsNumpy().tobytes(), quantization._tab.Vector(field)


def test_the_zero_points_of_channels_are_in_the_file_once() -> None:
    found = list(zero_points(int8_content()))
    distinct = {content for content, _ in found}
    assert len(found) > 2 * len(distinct)
    assert len({position for _, position in found}) == len(distinct)


def test_a_slim_file_names_its_input_and_output() -> None:
    loaded = interpreter(int8_content())
    assert loaded.get_input_details()[0]["name"] == "input"
    assert loaded.get_output_details()[0]["name"] == "output"
    (signature,) = loaded.get_signature_list().values()
    assert (signature["inputs"], signature["outputs"]) == (["input"], ["output"])


@pytest.mark.parametrize("content", [int8_content, float_content])
def test_tensor_data_is_aligned_in_the_file(content: object) -> None:
    positions = list(data_positions(content()))
    assert len(positions) > 5
    assert [position for position in positions if position % 16] == []


def test_exporting_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    assert export_program(quantized(), "tflite", "int8", tmp_path, FEATURES).read_bytes() == int8_content()


def test_exporting_leaves_the_program_as_it_was(tmp_path: Path) -> None:
    before = predict(quantized().model, samples())
    export_program(quantized(), "tflite", "int8", tmp_path, FEATURES)
    np.testing.assert_array_equal(predict(quantized().model, samples()), before)


def test_inputs_that_are_not_images_keep_their_shape(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    program = quantize(model, torch.randn(32, 12))
    detail = interpreter(
        export_program(program, "tflite", "int8", tmp_path, UNLABELLED).read_bytes()
    ).get_input_details()[0]
    assert detail["shape"].tolist() == [1, 12]
    assert detail["dtype"] == np.int8


class Padded(nn.Module):
    """Constant padding between two convolutions, by itself and beside what is not padded."""

    def __init__(self, sides: tuple[int, ...], value: float) -> None:
        super().__init__()
        self.sides, self.value, self.layers = sides, value, nn.ModuleList([nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3)])

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found = self.layers[0](inputs)
        padded = self.layers[1](nn.functional.pad(found, self.sides, value=self.value)[:, :4])
        return (padded.mean((2, 3), keepdim=True) + found.mean((2, 3), keepdim=True)).flatten(1)


@pytest.mark.parametrize(
    ("sides", "value"),
    [((0, 1), 0.0), ((1, 2, 0, 3), 0.5), ((2, 0, 1, 1, 0, 2), 0.0), ((0, 0, 1, 0, 0, 0, 0, 0), 0.5)],
)
def test_an_image_is_padded_where_it_lies(sides: tuple[int, ...], value: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = Padded(sides, value).eval(), torch.randn(4, 3, 8, 6)
    file = export_float(model, inputs[:1], "tflite", "float32", tmp_path, UNLABELLED)
    np.testing.assert_allclose(
        run(file.read_bytes(), inputs.permute(0, 2, 3, 1).numpy()), predict(model, inputs), atol=1e-5
    )
    assert layout_changes(read_graph(file)) == []


class SingularValues(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svd(inputs)[1]


class Wordless(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        raise ValueError


@pytest.mark.parametrize("model", [SingularValues(), Wordless()], ids=["unsupported", "fails without a word"])
def test_a_model_that_the_format_cannot_hold_is_refused_in_one_line(tmp_path: Path, model: nn.Module) -> None:
    with pytest.raises(ExportError) as caught:
        export_float(model, torch.zeros(1, 4, 4), "tflite", "float32", tmp_path, UNLABELLED)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_reason_names_the_operation(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="svd"):
        export_float(SingularValues(), torch.zeros(1, 4, 4), "tflite", "float32", tmp_path, UNLABELLED)


def test_a_sort_is_refused_and_not_written_as_what_no_runtime_takes(tmp_path: Path) -> None:
    class Sorted(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return torch.sort(inputs, dim=1)[0]

    with pytest.raises(ExportError):
        export_float(Sorted(), torch.zeros(1, 4), "tflite", "float32", tmp_path, UNLABELLED)
