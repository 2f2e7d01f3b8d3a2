"""What edgekd does to an ONNX graph between the exporter and the file."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from edgekd import __version__
from edgekd.compress import QuantizedProgram, quantize
from edgekd.export import onnx as exporter
from edgekd.export.formats import export_float, export_program
from edgekd.models.evaluate import predict
from edgekd.readers.onnx import read_graph
from edgekd.runtimes import open_session
from edgekd.verify.readback import read_back
from tests.export import small
from tests.export.small import PIXELS, UNLABELLED, quantized, samples, student
from tests.export.small_text import ids, text_quantized


class Mean(nn.Module):
    """The mean over some dimensions of a convolution's output, or of its rows."""

    def __init__(self, dimensions: tuple[int, ...], keep: bool, rows: bool = False) -> None:
        super().__init__()
        self.convolution, self.dimensions, self.keep, self.rows = nn.Conv2d(3, 5, 3), dimensions, keep, rows

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        features = torch.relu(self.convolution(inputs))
        features = features.flatten(2) if self.rows else features
        return features.mean(self.dimensions, keepdim=self.keep)


def kinds(file: Path) -> list[str]:
    return [node.op_type for node in onnx.load(str(file)).graph.node]


def exported(model: nn.Module, folder: Path) -> Path:
    return export_float(model.eval(), torch.zeros(1, 3, 8, 6), "onnx", "float32", folder, UNLABELLED)


def answer(file: Path, inputs: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": inputs.numpy()})[0]


def test_the_mean_over_an_image_runs_on_integers(tmp_path: Path) -> None:
    file = small.exported(tmp_path, "onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    optimised = kinds(tmp_path / "optimised.onnx")
    assert "QLinearGlobalAveragePool" in optimised
    assert "ReduceMean" not in optimised


@pytest.mark.parametrize("dimensions", [(2, 3), (-1, -2)])
def test_the_mean_over_an_image_is_a_pooling_with_the_same_answer(tmp_path: Path, dimensions: tuple[int, ...]) -> None:
    model, inputs = Mean(dimensions, keep=True), torch.randn(1, 3, 8, 6)
    file = exported(model, tmp_path)
    assert "GlobalAveragePool" in kinds(file)
    np.testing.assert_allclose(answer(file, inputs), model(inputs).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize(
    "model",
    [Mean((2, 3), keep=False), Mean((2,), keep=True), Mean((1, 2), keep=True), Mean((1, 2), keep=True, rows=True)],
    ids=["the shape changes", "rows alone", "channels", "no image"],
)
def test_another_mean_stays_what_it_is(tmp_path: Path, model: nn.Module) -> None:
    inputs = torch.randn(1, 3, 8, 6)
    file = exported(model, tmp_path)
    assert "ReduceMean" in kinds(file)
    np.testing.assert_allclose(answer(file, inputs), model(inputs).detach().numpy(), atol=1e-6)


def test_every_constant_is_read(tmp_path: Path) -> None:
    graph = onnx.load(str(small.exported(tmp_path, "onnx"))).graph
    read = {name for node in graph.node for name in node.input}
    assert len(graph.initializer) > 10
    assert {tensor.name for tensor in graph.initializer} <= read


def perceptron() -> QuantizedProgram:
    """Matrix products with a ReLU behind each but the last."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    return quantize(model.eval(), samples(32))


def untouched(program: QuantizedProgram, file: Path) -> Path:
    """The same export without what takes out ReLUs and turns weights."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_drop_saturated_relus", "_turn_weights"):
            patch.setattr(exporter, name, lambda content: None)
        model = program.frozen(stored=True, unsigned=True)
        exporter.export(model, program.example, file, "int8", UNLABELLED)
    return file


def plain_answers(file: Path, inputs: np.ndarray) -> np.ndarray:
    """Node by node, with none of the runtime's own rewriting."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": one[None]})[0] for one in inputs])


def relus_before_quantizers(graph: onnx.GraphProto) -> list[str]:
    relus = [node.output[0] for node in graph.node if node.op_type == "Relu"]
    users = {name: {node.op_type for node in graph.node if name in node.input} for name in relus}
    return [name for name in relus if users[name] == {"QuantizeLinear"}]


def turned_weights(graph: onnx.GraphProto) -> list[str]:
    stored = {tensor.name for tensor in graph.initializer}
    weights = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in stored}
    return [node.output[0] for node in graph.node if node.op_type == "Transpose" and node.input[0] in weights]


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (quantized, samples(20).numpy()),
        (perceptron, samples(20).numpy()),
        (lambda: text_quantized("text_encoder"), ids(20).numpy()),
    ],
    ids=["ds_cnn", "perceptron", "text_encoder"],
)
def test_relus_and_turned_weights_are_taken_out_and_no_answer_changes(
    make: Callable[[], QuantizedProgram], inputs: np.ndarray, tmp_path: Path
) -> None:
    program = make()
    file, plain = export_program(program, "onnx", "int8", tmp_path, UNLABELLED), tmp_path / "plain.onnx"
    before, after = onnx.load(str(untouched(program, plain))).graph, onnx.load(str(file)).graph
    assert relus_before_quantizers(before)
    assert turned_weights(before) or not any("Mat" in node.op_type for node in before.node)
    assert (relus_before_quantizers(after), turned_weights(after)) == ([], [])
    np.testing.assert_array_equal(plain_answers(file, inputs), plain_answers(plain, inputs))
    assert read_back(program.table, read_graph(file)).problems == ()


class Cut(nn.Module):
    """A ReLU whose quantizer is that of a sum, and one whose output is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        features = torch.relu(self.first(inputs))
        outputs: torch.Tensor = self.last(torch.relu(features - 1) - features)
        return outputs


def test_a_relu_that_cuts_more_than_its_quantizer_stays_in_effect(tmp_path: Path) -> None:
    torch.manual_seed(0)
    program, inputs = quantize(Cut().eval(), torch.randn(32, 8)), torch.randn(50, 8)
    file = export_program(program, "onnx", "int8", tmp_path, UNLABELLED)
    np.testing.assert_array_equal(
        plain_answers(file, inputs.numpy()), plain_answers(untouched(program, tmp_path / "plain.onnx"), inputs.numpy())
    )
    np.testing.assert_allclose(
        plain_answers(file, inputs.numpy()), predict(program.model, inputs), atol=2.1 * program.output_scale
    )


def test_a_float_model_keeps_its_relus(tmp_path: Path) -> None:
    file = small.exported(tmp_path, "onnx", precision="float32")
    assert kinds(file).count("Relu") == sum(isinstance(one, nn.ReLU) for one in student().modules())


def properties(file: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(str(file)).metadata_props}


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_the_file_says_what_its_card_says_and_no_more(precision: str, tmp_path: Path) -> None:
    labels = ("<north>", "two\nlines", "Käse, 猫", "")
    card = replace(PIXELS, labels=labels)
    if precision == "int8":
        file = export_program(quantized(), "onnx", "int8", tmp_path, card)
    else:
        file = export_float(student(), quantized().example, "onnx", "float32", tmp_path, card)
    found = properties(file)
    assert found.keys() == {
        f"edgekd.{name}" for name in ("version", "name", "output", "outputs", "labels", "preprocessing")
    }
    assert (found["edgekd.version"], found["edgekd.name"]) == (__version__, "student")
    assert found["edgekd.output"] == "logits"
    assert json.loads(found["edgekd.labels"]) == list(labels)
    assert json.loads(found["edgekd.preprocessing"]) == PIXELS.preprocessing
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == found


def test_input_and_output_have_one_name_each(tmp_path: Path) -> None:
    graph = onnx.load(str(small.exported(tmp_path, "onnx", card="pixels"))).graph
    assert [entry.name for entry in graph.input] == ["input"]
    assert [entry.name for entry in graph.output] == ["output"]


def test_weights_of_a_half_file_are_rounded_once(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 4)).eval()
    file = export_float(model, quantized().example, "onnx", "float16", tmp_path, UNLABELLED)
    (half,) = (one for one in onnx.load(str(file)).graph.initializer if one.data_type == TensorProto.FLOAT16)
    weight = model[1].weight.detach().numpy().astype(np.float16)
    found = numpy_helper.to_array(half)
    np.testing.assert_array_equal(found if found.shape == weight.shape else found.T, weight)
    inputs = samples(10)
    expected = inputs.flatten(1).numpy() @ weight.astype(np.float32).T + model[1].bias.detach().numpy()
    np.testing.assert_allclose(open_session(file).run(inputs.numpy()), expected, atol=1e-5)


def test_what_float16_cannot_hold_stays_float32(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)).eval()
    with torch.no_grad():
        model[1].weight[3, 5] = -7e4
    file = export_float(model, torch.zeros(1, 16), "onnx", "float16", tmp_path, UNLABELLED)
    stored = [one.data_type for one in onnx.load(str(file)).graph.initializer if len(one.dims) == 2]
    assert sorted(stored) == [TensorProto.FLOAT, TensorProto.FLOAT16]
    inputs = torch.randn(20, 16)
    np.testing.assert_allclose(open_session(file).run(inputs.numpy()), predict(model, inputs), rtol=1e-2, atol=50)
