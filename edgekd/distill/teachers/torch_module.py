"""Torch modules as teachers: the one that a step trained or loaded, and those of an ensemble."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekd.distill.teacher_config import TorchModule
from edgekd.distill.teachers.answers import Source, given_to
from edgekd.distill.teachers.samples import Batch, Samples
from edgekd.models.build import Architecture, build, load_module, load_weights, parameter_count
from edgekd.models.evaluate import fastest_device, predict


def open_trained(folder: Path, name: str) -> Source:
    """The module of a finished step."""
    module, _ = load_module(folder, name)
    return Source(_answers(module, given_to(None)), name, written="logits", params=parameter_count(module))


def open_module(config: TorchModule, samples: Samples, name: str) -> Source:
    """A module with the user's weights. With a preprocessing of its own, its inputs are what that gives."""
    shape, vocabulary, given = samples.facts["input_shape"], samples.facts["vocabulary"], given_to(config.preprocess)
    if config.preprocess is not None:
        shape, vocabulary = np.shape(given(samples.probe))[1:], None
    module = build(Architecture(config.model, config.args, tuple(shape), len(samples.labels), vocabulary), name)
    load_weights(module, config.weights, name)
    return Source(_answers(module, given), name, config.labels, config.outputs, parameter_count(module))


def _answers(module: nn.Module, given: Callable[[Batch], Any]) -> Callable[[Batch], np.ndarray]:
    module.to(fastest_device())

    def numbers(batch: Batch) -> np.ndarray:
        inputs = np.asarray(given(batch))
        return predict(module, torch.from_numpy(inputs.astype(np.float32) if inputs.dtype.kind == "f" else inputs))

    return numbers
