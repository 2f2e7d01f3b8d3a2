"""A small student, quantized and exported once for all tests that read a file."""

import functools
import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

from edgekd.compress import QuantizedProgram, quantize
from edgekd.export import tflite_graph, tflite_metadata, tflite_pack
from edgekd.export.card import Card
from edgekd.export.formats import MODEL_FILE, export_float, export_program
from edgekd.models.build import Architecture
from edgekd.target import Format, Precision
from tests.compress.students import lively, noise

ARCHITECTURES = {
    "ds_cnn": Architecture("ds_cnn", {"width": 8, "blocks": 2}, (3, 8, 6), 4),
    "resnet": Architecture("resnet", {"width": 4, "blocks": (1, 1)}, (3, 8, 6), 4),
}
SHAPE = (3, 8, 6)
INPUT_RANGE = ((0 - 128) / 64, (255 - 128) / 64)
LABELS = ("north", "east", "south", "west")
FEATURES = Card("student", LABELS, "logits", {"input": "features"})
UNLABELLED = Card("student", (), "logits", {"input": "features"})
PIXELS = Card("student", LABELS, "logits", {"input": "raw pixels", "range": [0, 255], "mean": 128, "std": 64.0})
CARDS = {"features": FEATURES, "pixels": PIXELS}


@functools.cache
def student(family: str = "ds_cnn") -> nn.Module:
    return lively(ARCHITECTURES[family])


@functools.cache
def quantized(family: str = "ds_cnn") -> QuantizedProgram:
    return quantize(student(family), noise(SHAPE, 64), None, INPUT_RANGE)


@functools.cache
def contents(family: str, format_name: Format, precision: Precision, card: str) -> dict[str, bytes]:
    """Every file of an export by its name."""
    with tempfile.TemporaryDirectory() as place:
        if precision in ("int8", "int8-weights"):
            export_program(quantized(family), format_name, precision, Path(place), CARDS[card])
        else:
            model, example = student(family), quantized(family).example
            export_float(model, example, format_name, precision, Path(place), CARDS[card])
        return {part.name: part.read_bytes() for part in Path(place).iterdir()}


def exported(
    folder: Path, format_name: Format, family: str = "ds_cnn", precision: Precision = "int8", card: str = "features"
) -> Path:
    """A file of a test's own, exported once for all tests."""
    for name, content in contents(family, format_name, precision, card).items():
        (folder / name).write_bytes(content)
    return folder / MODEL_FILE[format_name]


def int8_content(family: str = "ds_cnn") -> bytes:
    return contents(family, "tflite", "int8", "features")["model.tflite"]


@functools.cache
def bare_content(slimmed: bool = True) -> bytes:
    """The int8 file without metadata; not slimmed, it is as the converter wrote it."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tflite_metadata, "with_metadata", lambda content, card: content)
        if not slimmed:
            for module in (tflite_pack, tflite_graph):
                patch.setattr(module, "slim", lambda content: content)
        return export_program(quantized(), "tflite", "int8", Path(folder), FEATURES).read_bytes()


def float_content() -> bytes:
    return contents("ds_cnn", "tflite", "float32", "features")["model.tflite"]


def bare(model: nn.Module, example: torch.Tensor) -> bytes:
    """A float model as a float32 TFLite file without metadata."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tflite_metadata, "with_metadata", lambda content, card: content)
        return export_float(model, example, "tflite", "float32", Path(folder), UNLABELLED).read_bytes()


@functools.cache
def bare_float_content() -> bytes:
    return bare(student(), quantized().example)


def samples(count: int = 50) -> torch.Tensor:
    """Inputs that the calibration did not see, shape (N, 3, 8, 6)."""
    return noise(SHAPE, count, seed=9)


@pytest.fixture(scope="session")
def int8_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("int8") / "model.tflite"
    file.write_bytes(int8_content())
    return file


@pytest.fixture(scope="session")
def float_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("float") / "model.tflite"
    file.write_bytes(float_content())
    return file


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Where a test writes its damaged file."""
    return tmp_path / "damaged.tflite"
