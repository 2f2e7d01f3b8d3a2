"""A refused model is told by its operation and its layer, as the user named it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from edgekd.compress import QuantizedProgram, quantize
from edgekd.compress.fold import trace
from edgekd.errors import ExportError
from edgekd.export.blame import refusal
from edgekd.export.card import Card
from edgekd.export.formats import export_float, export_program
from tests.compress.students import noise
from tests.export.small import LABELS, SHAPE

FORMATS = ("tflite", "onnx", "coreml")
PIXELS = {"input": "raw pixels", "range": [0, 255], "mean": 128, "std": 64.0}
PLAIN = Card("student", LABELS, "logits", {"input": "features"})
WRAPPED = Card("student", LABELS, "probabilities", PIXELS)
"""A softmax behind the model and the normalisation before it."""
Function = Callable[[torch.Tensor], torch.Tensor]


class Calling(nn.Module):
    """A layer that calls a function."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.function(features)


class Student(nn.Module):
    """A function in the layer `body.1.0`."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.first = nn.Conv2d(SHAPE[0], 4, 3, padding=1)
        self.body = nn.Sequential(nn.LeakyReLU(), nn.Sequential(Calling(function), nn.LeakyReLU()))
        self.pool, self.last = nn.AdaptiveAvgPool2d(1), nn.Linear(4, len(LABELS))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.last(torch.flatten(self.pool(self.body(self.first(inputs))), 1))


class Outside(nn.Module):
    """The function is called by the model itself."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(SHAPE[0], len(LABELS))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(self.last(inputs.mean((2, 3))))


class Holding(nn.Module):
    """A student that the user calls `model` himself."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Student(torch.special.bessel_j0)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.model(inputs)


def in_a_row() -> nn.Module:
    return nn.Sequential(nn.Conv2d(SHAPE[0], 4, 3), Calling(torch.special.bessel_j0), nn.Flatten(), nn.Linear(96, 4))


MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "deep": (lambda: Student(torch.special.bessel_j0), "layer 'body.1.0' (Calling)"),
    "in a row": (in_a_row, "layer '1' (Calling)"),
    "held": (Holding, "layer 'model.body.1.0' (Calling)"),
    "outside": (Outside, "the model itself (Outside)"),
}


def refused(name: str, folder: Path, export: Callable[[], object]) -> str:
    """Why it was refused; nothing half written is left."""
    with pytest.raises(ExportError) as caught:
        export()
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith({"tflite": "TFLite", "onnx": "ONNX", "coreml": "Core ML"}[name] + " export: ")
    assert list(folder.iterdir()) == []
    return message


def quantized(model: nn.Module) -> QuantizedProgram:
    return quantize(model, noise(SHAPE, 4))


@pytest.mark.parametrize("card", [PLAIN, WRAPPED], ids=["plain", "wrapped"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", FORMATS)
def test_a_float_model_is_told_by_operation_and_layer(name: str, model: str, card: Card, tmp_path: Path) -> None:
    make, layer = MODELS[model]
    message = refused(
        name, tmp_path, lambda: export_float(make().eval(), torch.zeros(1, *SHAPE), name, "float32", tmp_path, card)
    )
    assert f"bessel_j0 in {layer}; replace it in the model" in message


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", FORMATS)
def test_a_quantized_program_is_told_by_operation_and_layer(name: str, model: str, tmp_path: Path) -> None:
    make, layer = MODELS[model]
    program = quantized(make())
    message = refused(name, tmp_path, lambda: export_program(program, name, "int8", tmp_path, WRAPPED))
    assert f"bessel_j0 in {layer}; replace it in the model" in message


@pytest.mark.parametrize(
    ("name", "function", "operation"),
    [
        ("tflite", torch.lgamma, "lgamma"),
        ("onnx", torch.lgamma, "lgamma"),
        ("coreml", torch.lgamma, "lgamma"),
        ("tflite", lambda features: torch.median(features, -1, keepdim=True)[0], "median"),
        ("tflite", lambda features: torch.linalg.svdvals(features)[..., None], "_linalg_svd"),
        ("onnx", lambda features: torch.linalg.svdvals(features)[..., None], "_linalg_svd"),
        ("coreml", lambda features: torch.linalg.svdvals(features)[..., None], "linalg_svdvals"),
        ("coreml", lambda features: torch.fft.rfft(features).real, "fft_rfft"),
        ("coreml", lambda features: features * torch.unique(features).sum(), "_unique2"),
        ("coreml", lambda features: torch.linalg.inv(features[..., :4, :4] + torch.eye(4)), "linalg_inv"),
        ("coreml", lambda features: torch.searchsorted(torch.arange(5.0), features) * 1.0, "searchsorted"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-",
)
def test_a_converters_words_for_an_operation_are_understood(
    name: str, function: Function, operation: str, tmp_path: Path
) -> None:
    model = Student(function).eval()
    message = refused(
        name, tmp_path, lambda: export_float(model, torch.zeros(1, *SHAPE), name, "float32", tmp_path, PLAIN)
    )
    assert f"no conversion for {operation} in layer 'body.1.0' (Calling)" in message


@pytest.fixture(scope="module")
def program() -> torch.export.ExportedProgram:
    model = nn.Sequential(nn.LogSoftmax(-1), nn.LeakyReLU(), nn.Sequential(nn.Softmax(-1), nn.ReLU()))
    return trace(model, torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cannot convert aten::relu here", "no conversion for relu in layer '2.1' (ReLU); replace it in the model"),
        ("aten.softmax.int is unknown", "no conversion for softmax in layer '2.0' (Softmax); replace it in the model"),
        ("aten.log_softmax", "no conversion for log_softmax in layer '0' (LogSoftmax); replace it in the model"),
        ("fx node leaky_relu", "no conversion for leaky_relu in layer '1' (LeakyReLU); replace it in the model"),
        ("aten.sin near aten.relu", "no conversion for relu in layer '2.1' (ReLU); replace it in the model"),
        ("aten::sin is not in it", "aten::sin is not in it"),
        ("\x1b[31mwhat failed\x1b[0m\nand much more", "what failed"),
        ("", "ValueError"),
    ],
)
def test_what_an_error_names_is_looked_up_in_the_model(
    text: str, expected: str, program: torch.export.ExportedProgram
) -> None:
    assert refusal(ValueError(text), program) == expected


@pytest.mark.parametrize("linked", ["cause", "context"])
def test_the_error_behind_an_error_is_read_too(linked: str, program: torch.export.ExportedProgram) -> None:
    inner, outer = KeyError("no lowering of aten.relu.default"), RuntimeError("the conversion failed")
    setattr(outer, f"__{linked}__", inner)
    assert "relu in layer '2.1' (ReLU)" in refusal(outer, program)


def test_the_outermost_error_is_told_where_none_names_an_operation(program: torch.export.ExportedProgram) -> None:
    outer = RuntimeError("the conversion failed")
    outer.__cause__ = ValueError("out of memory")
    assert refusal(outer, program) == "the conversion failed"
