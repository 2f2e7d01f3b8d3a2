"""What edgekd does to an ONNX graph between the exporter and the file."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from edgekd.export.formats import export_float, export_program
from tests.export.small import FEATURES, UNLABELLED, quantized


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
    file = export_program(quantized(), "onnx", "int8", tmp_path, FEATURES)
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
    graph = onnx.load(str(export_program(quantized(), "onnx", "int8", tmp_path, FEATURES))).graph
    read = {name for node in graph.node for name in node.input}
    assert len(graph.initializer) > 10
    assert {tensor.name for tensor in graph.initializer} <= read
