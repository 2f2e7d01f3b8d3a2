"""The students that edgekd's exported files are compared on."""

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekd.distill.distiller import Distiller, soft_targets, supervised
from edgekd.distill.examples import Examples
from edgekd.distill.trainer import fit
from edgekd.export.card import Card
from edgekd.models.ds_cnn import ds_cnn
from edgekd.models.mobilenet_v2 import mobilenet_v2
from edgekd.models.resnet import resnet
from edgekd.models.text_encoder import text_encoder
from edgekd.recipe import AudioTask, ImageTask, TextTask, Training, load_recipe
from edgekd.step import silent
from edgekd.tasks import audio, image, text

DIGITS = tuple("0123456789")
CALIBRATION, TEST = 100, 500
SEED = 0


@dataclass(frozen=True)
class Student:
    """A float model in eval mode, batch norm in place, and what it is quantized and judged with.

    calibration, test: inputs, float32, shape (N, channels, height, width), or token ids, int32, (N, length). labels:
    those of `test`, int64 (N,), or None where there is nothing to be right about. train: trains the quantized model in
    place; None leaves the calibrated ranges. card: what edgekd's files say about themselves.
    """

    name: str
    model: nn.Module
    calibration: torch.Tensor
    test: torch.Tensor
    card: Card
    labels: np.ndarray | None = None
    train: Callable[[nn.Module], object] | None = None


def students(recordings: Path | None, sentences: Path | None, quick: bool) -> list[Student]:
    """Every student of the benchmark, or the two that are made fastest."""
    if quick:
        return [spoken_digits(recordings, epochs=1), residual(epochs=1)]
    return [
        spoken_digits(recordings, epochs=6),
        residual(epochs=3),
        inverted(epochs=2),
        encoder(sentences, epochs=2),
    ]


def spoken_digits(recordings: Path | None, epochs: int) -> Student:
    """DS-CNN as in the recipe `spoken-digits`; without recordings untrained, on noise."""
    torch.manual_seed(SEED)
    model = ds_cnn((1, 49, 40), len(DIGITS), width=36, blocks=4, stem_kernel=[10, 4], stem_stride=[2, 2])
    name = "DS-CNN 49x40x1"
    if recordings is None:
        noise = torch.randn(CALIBRATION + TEST, 1, 49, 40)
        model = settled(model, noise[:CALIBRATION])
        return Student(name, model, noise[:CALIBRATION], noise[CALIBRATION:], card_of(name, DIGITS))
    task = load_recipe("spoken-digits").recipe.task
    assert isinstance(task, AudioTask)
    task = dataclasses.replace(task, data=recordings, augment=dataclasses.replace(task.augment, views=1))
    data = audio.wav_folder(task)
    prepared = audio.prepare(task, data, np.random.default_rng(SEED), silent)
    examples = _examples(prepared.train, data.train.labels)
    _fit(model, examples, epochs, learning_rate=1e-2, batch_size=32)
    return Student(
        name,
        model.eval(),
        _calibration(examples),
        torch.from_numpy(prepared.test),
        card_of(name, data.labels, prepared.preprocessing),
        np.asarray(data.test.labels),
        lambda quantized: _distil(quantized, model, examples),
    )


def residual(epochs: int) -> Student:
    """ResNet-8 of MLPerf Tiny on scikit-learn's digits."""
    torch.manual_seed(SEED)
    return _on_digits("ResNet-8 32x32x3", resnet((3, 32, 32), len(DIGITS)), 32, epochs)


def inverted(epochs: int) -> Student:
    """MobileNetV2 of width 0.35 on scikit-learn's digits."""
    torch.manual_seed(SEED)
    model = mobilenet_v2((3, 96, 96), len(DIGITS), width=0.35, dropout=0.0)
    return _on_digits("MobileNetV2 0.35 96x96x3", model, 96, epochs)


def encoder(sentences: Path | None, epochs: int) -> Student:
    """The text encoder of the recipe `sentiment`; without sentences untrained, on random words."""
    torch.manual_seed(SEED)
    recipe = load_recipe("sentiment").recipe
    task, name = recipe.task, "text encoder 32x64"
    assert isinstance(task, TextTask)
    if sentences is None:
        model = text_encoder((task.length,), 2, task.vocabulary or 0, **recipe.student.args).eval()
        ids = torch.randint(task.vocabulary or 0, (CALIBRATION + TEST, task.length), dtype=torch.int32)
        return Student(name, model, ids[:CALIBRATION], ids[CALIBRATION:], card_of(name, ("negative", "positive")))
    task = dataclasses.replace(task, data=sentences, augment=dataclasses.replace(task.augment, views=1))
    data = text.tsv_folder(task, **task.args)
    with tempfile.TemporaryDirectory(prefix="edgekd-") as place:
        prepared = text.prepare(task, data, np.random.default_rng(SEED), silent, Path(place))
    model = text_encoder((task.length,), len(data.labels), prepared.vocabulary or 0, **recipe.student.args)
    examples = _examples(prepared.train, data.train.labels)
    _fit(model, examples, epochs, learning_rate=1e-3)
    return Student(
        name,
        model.eval(),
        _calibration(examples),
        torch.from_numpy(prepared.test[:TEST]),
        card_of(name, data.labels, prepared.preprocessing),
        np.asarray(data.test.labels)[:TEST],
    )


def _on_digits(name: str, model: nn.Module, side: int, epochs: int) -> Student:
    """The digits in three channels, each of their 8x8 pixels repeated."""
    task = load_recipe("digits").recipe.task
    assert isinstance(task, ImageTask)
    data = image.digits(task)
    prepared = image.prepare(task, data, np.random.default_rng(SEED), silent)

    def enlarged(inputs: np.ndarray) -> np.ndarray:
        times = side // inputs.shape[-1]
        return inputs.repeat(3, axis=-3).repeat(times, axis=-2).repeat(times, axis=-1)

    examples = _examples(enlarged(prepared.train[:1]), data.train.labels)
    _fit(model, examples, epochs, learning_rate=1e-2, batch_size=32)
    test, labels = torch.from_numpy(enlarged(prepared.test[:TEST])), np.asarray(data.test.labels)[:TEST]
    return Student(name, model.eval(), _calibration(examples), test, card_of(name, DIGITS), labels)


def _examples(inputs: np.ndarray, labels: Any) -> Examples:
    return Examples(torch.from_numpy(np.ascontiguousarray(inputs)), torch.from_numpy(np.asarray(labels)))


def _fit(model: nn.Module, examples: Examples, epochs: int, learning_rate: float, batch_size: int = 64) -> None:
    training = Training(epochs=epochs, learning_rate=learning_rate, batch_size=batch_size)
    fit(Distiller(model, None, supervised()), examples, training, SEED)


def _distil(quantized: nn.Module, model: nn.Module, examples: Examples) -> None:
    """Quantization-aware training: an epoch in which the quantized model learns from the float one."""
    fit(Distiller(quantized, model, soft_targets(4.0, 0.9)), examples, Training(epochs=1, learning_rate=1e-3), SEED)


def _calibration(examples: Examples) -> torch.Tensor:
    chosen = np.random.default_rng(SEED).permutation(len(examples.labels))[:CALIBRATION]
    return examples.inputs[0, chosen].contiguous()


def card_of(name: str, labels: Sequence[str], preprocessing: dict[str, object] | None = None) -> Card:
    return Card(name, tuple(labels), "logits", preprocessing or {"input": "features"})


def settled(model: nn.Module, inputs: torch.Tensor) -> nn.Module:
    """Untrained, in eval mode, its batch norms used to these inputs: activations have size one."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
            nn.init.normal_(layer.weight, 1.0, 0.2)
            nn.init.normal_(layer.bias, 0.0, 0.3)
    with torch.no_grad():
        model.train()(inputs)
    return model.eval()
