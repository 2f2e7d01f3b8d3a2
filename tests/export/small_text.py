"""Small students of texts, quantized and exported once for all tests that read a file."""

import functools
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgekd.compress import QuantizedProgram, quantize
from edgekd.export.card import Card
from edgekd.export.formats import MODEL_FILE, export_float, export_program
from edgekd.models.build import Architecture, build
from edgekd.target import Format, Precision

LENGTH, CLASSES, VOCABULARY = 8, 3, 60
ARCHITECTURES = {
    "text_encoder": Architecture(
        "text_encoder", {"width": 16, "layers": 1, "heads": 2, "hidden": 24}, (LENGTH,), CLASSES, VOCABULARY
    ),
    "text_cnn": Architecture(
        "text_cnn", {"width": 8, "channels": 8, "kernels": (2, 3)}, (LENGTH,), CLASSES, VOCABULARY
    ),
}
WORDS = {"input": "token ids", "tokenizer": "tokenizer.json", "length": LENGTH, "padding_id": 0, "unknown_id": 1}
LABELS = ("no", "maybe", "yes")
CARDS = {
    "logits": Card("texts", LABELS, "logits", WORDS),
    "probabilities": Card("texts", LABELS, "probabilities", WORDS),
}


def ids(count: int = 200, seed: int = 9) -> torch.Tensor:
    """Token ids, int32, shape (count, LENGTH), padded as sentences are."""
    random = np.random.default_rng(seed)
    numbers = random.integers(1, VOCABULARY, (count, LENGTH), dtype=np.int32)
    ends = random.integers(1, LENGTH + 1, (count, 1))
    return torch.from_numpy(np.where(np.arange(LENGTH) < ends, numbers, np.int32(0)))


@functools.cache
def text_student(family: str) -> nn.Module:
    """Untrained, with words, places and normalisations that differ, and every class among its answers."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(ARCHITECTURES[family], "student")
        nn.init.normal_(model.tokens.weight, std=0.3)
        nn.init.normal_(model.classifier.weight)
        for name, parameter in model.named_parameters():
            if "norm" in name or name == "positions":
                nn.init.normal_(parameter, float(name.endswith("norm.weight")), 0.1)
        with torch.no_grad():
            logits = model.eval()(ids(64, seed=1))
            model.classifier.weight /= logits.std(0, keepdim=True).T
            model.classifier.bias.copy_(model.classifier.bias - model(ids(64, seed=1)).mean(0))
    return model


@functools.cache
def text_quantized(family: str) -> QuantizedProgram:
    return quantize(text_student(family), ids(32, seed=1))


@functools.cache
def contents(family: str, format_name: Format, precision: Precision, output: str) -> dict[str, bytes]:
    """Every file of an export by its name."""
    card = CARDS[output]
    with tempfile.TemporaryDirectory() as place:
        if precision in ("int8", "int8-weights"):
            export_program(text_quantized(family), format_name, precision, Path(place), card)
        else:
            model, example = text_student(family), text_quantized(family).example
            export_float(model, example, format_name, precision, Path(place), card)
        return {part.name: part.read_bytes() for part in Path(place).iterdir()}


def text_file(folder: Path, family: str, format_name: Format, precision: Precision, output: str = "logits") -> Path:
    for name, content in contents(family, format_name, precision, output).items():
        (folder / name).write_bytes(content)
    return folder / MODEL_FILE[format_name]
