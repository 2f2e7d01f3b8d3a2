"""What a torch model answers, and how often it is right."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgekd.artifact import Artifact


def load_array(file: Path) -> torch.Tensor:
    """A saved array as a tensor, mapped from the file and copied only where it is used."""
    return torch.from_numpy(np.load(file, mmap_mode="c"))


@torch.no_grad()
def predict(module: nn.Module, inputs: torch.Tensor, batch_size: int = 256) -> np.ndarray:
    """Logits in eval mode: inputs (N, ...) to float32, shape (N, classes)."""
    module.eval()
    return torch.cat([module(batch) for batch in torch.split(inputs, batch_size)]).numpy()


def correct_share(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows whose largest logit is the label's, 0 to 1."""
    return float((logits.argmax(axis=1) == labels).mean())


def accuracy(module: nn.Module, data: Artifact) -> float:
    """Accuracy on the whole test split, 0 to 1."""
    logits = predict(module, load_array(data.file("test_inputs.npy")))
    return correct_share(logits, np.load(data.file("test_labels.npy")))


def points(share: float) -> float:
    """An accuracy share as points of 0 to 100, to two places."""
    return round(100 * share, 2)
