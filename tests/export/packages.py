"""Small students as Core ML packages, each exported once for all tests that read one."""

import functools
import tempfile
from pathlib import Path

import torch
from torch import nn

from edgekd.export.card import Card
from edgekd.export.coreml import export
from tests.export.small import quantized, student

MEAN, STD = 128.0, 64.0
LABELS = ("zebra", "ant", "bee", "cow")
PREPROCESSING = {"input": "raw pixels", "range": [0, 255], "mean": MEAN, "std": STD}
LOGITS = Card("small", LABELS, "logits", PREPROCESSING)
PROBABILITIES = Card("small", LABELS, "probabilities", PREPROCESSING)

_place = tempfile.TemporaryDirectory(prefix="edgekd-tests-")


class WithSoftmax(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.model(inputs), 1)


@functools.cache
def int8_package(family: str = "ds_cnn", half: bool = False, classifier: bool = False) -> Path:
    """A quantized student that takes pixels; callers leave it as it is."""
    program = quantized(family)
    frozen = program.frozen(stored=True)
    file = Path(_place.name) / f"{family}-{half}-{classifier}.mlpackage"
    model, card = (WithSoftmax(frozen), PROBABILITIES) if classifier else (frozen, LOGITS)
    export(model, program.example, file, card, half, (MEAN, STD))
    return file


@functools.cache
def float_package(pixels: bool = False) -> Path:
    file = Path(_place.name) / f"float-{pixels}.mlpackage"
    export(student(), quantized().example, file, LOGITS, half=False, pixels=(MEAN, STD) if pixels else None)
    return file


def content(package: Path) -> dict[str, bytes]:
    """Every file of a package by its path in it."""
    files = (file for file in sorted(package.rglob("*")) if file.is_file())
    return {file.relative_to(package).as_posix(): file.read_bytes() for file in files}
