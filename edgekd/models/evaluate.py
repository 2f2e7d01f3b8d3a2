"""What a torch model answers, and how good that is."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgekd.artifact import Artifact, Facts
from edgekd.tasks.metrics import SCORES, evaluate, score


def load_array(file: Path) -> torch.Tensor:
    """A saved array as a tensor, mapped from the file and copied only where it is used."""
    return torch.from_numpy(np.load(file, mmap_mode="c"))


@torch.no_grad()
def predict(module: nn.Module, inputs: torch.Tensor, batch_size: int = 256) -> np.ndarray:
    """Outputs in eval mode, on the module's device: inputs (N, ...) to float32, shape (N, outputs)."""
    module.eval()
    place = next(module.parameters(), torch.empty(0)).device
    return torch.cat([module(batch.to(place)).cpu() for batch in torch.split(inputs, batch_size)]).numpy()


def fastest_device() -> torch.device:
    """The GPU of this process, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def quality(module: nn.Module, data: Artifact, teacher: Artifact | None = None) -> Facts:
    """How good a module is on the whole test split; see `quality_of`. teacher: its cached outputs."""
    return quality_of(predict(module, load_array(data.file("test_inputs.npy"))), data, teacher)


def quality_of(outputs: np.ndarray, data: Artifact, teacher: Artifact | None = None) -> Facts:
    """Facts about outputs for the whole test split, (N, outputs): `accuracy`, which is the task's score, its name as
    `metric`, and all `metrics`, those against the teacher as well where its cache has outputs for the test split.
    """
    labels, facts = np.load(data.file("test_labels.npy")), data.facts
    shown = None if teacher is None else teacher_outputs(teacher)
    return {
        "accuracy": score(outputs, labels, facts["outputs"]),
        "metric": SCORES[facts["outputs"]],
        "metrics": evaluate(outputs, labels, facts["outputs"], facts["labels"], shown),
    }


def teacher_outputs(cache: Artifact) -> np.ndarray | None:
    """The teacher's outputs for the test split, (N, outputs), where its cache has them."""
    name = "test.npy"
    return np.load(cache.file(name)) if name in cache.files else None


def points(score: float) -> float:
    """A score as points of 0 to 100, to two places."""
    return round(100 * score, 2)
