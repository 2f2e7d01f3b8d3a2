"""Teachers and students, trained by the package's trainer."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.distillation.kept import key_of
from benchmarks.distillation.materials import UNLABELLED, Material
from benchmarks.distillation.methods import alone
from benchmarks.distillation.subjects import Network, Subject
from edgekd.distill.config import ObjectiveConfig
from edgekd.distill.distiller import Distiller
from edgekd.distill.examples import Examples
from edgekd.distill.objectives import build_objective
from edgekd.distill.trainer import fit
from edgekd.models.build import build
from edgekd.models.evaluate import predict
from edgekd.recipe import Training
from edgekd.seeding import deterministic
from edgekd.tasks.metrics import score

FIRST_TEACHER = 1000
"""Seeds of teachers start here, apart from those of students."""


class Together(nn.Module):
    """Several networks that answer with the mean of their logits."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.stack([member(inputs) for member in self.members]).mean(dim=0)


@dataclass(frozen=True)
class Taught:
    """A teacher in eval mode; its logits for all views, float32 (V, N, classes); accuracy on the test split, 0 to 1."""

    module: nn.Module
    outputs: torch.Tensor
    accuracy: float


def teacher(subject: Subject, material: Material, labels: np.ndarray, seed: int, cache: Path) -> Taught:
    """Trained on those samples that have a label, or read from `cache`.

    seed: of the first member; teachers of other seeds share no member.
    """
    key = key_of([material.key, subject.teacher, subject.members, subject.teacher_training, labels.tolist(), seed])
    file = cache / "teachers" / key
    first = FIRST_TEACHER + subject.members * seed
    members = []
    for member in range(subject.members):
        module = built(subject.teacher, material, first + member)
        weights = file.with_name(f"{key}-{member}.safetensors")
        if weights.is_file():
            module.load_state_dict(load_file(weights))
        else:
            train(module, None, alone(), labelled_only(material, labels), subject.teacher_training, first + member)
            weights.parent.mkdir(parents=True, exist_ok=True)
            save_file(module.state_dict(), weights)
        members.append(module)
    module = Together(members).eval() if len(members) > 1 else members[0].eval()
    answers = file.with_suffix(".npy")
    if not answers.is_file():
        np.save(answers, np.stack([predict(module, view) for view in material.inputs]))
    return Taught(module, torch.from_numpy(np.load(answers)), accuracy_of(module, material))


def student(
    subject: Subject,
    material: Material,
    examples: Examples,
    objective: ObjectiveConfig,
    seed: int,
    taught: Taught | None,
) -> float:
    """A student's accuracy on the test split, 0 to 1. With the same seed it starts the same and sees the same order.

    The teacher answers from its stored outputs, and runs beside the student where its layers are looked at.
    """
    module = built(subject.student, material, seed)
    online = None if taught is None else copy.deepcopy(taught.module)
    train(module, online, objective, examples, subject.training, seed)
    return accuracy_of(module, material)


def everything(material: Material, labels: np.ndarray, taught: Taught | None) -> Examples:
    """All samples, with or without a label."""
    return Examples(material.inputs, torch.from_numpy(labels), None if taught is None else taught.outputs)


def labelled_only(material: Material, labels: np.ndarray, taught: Taught | None = None) -> Examples:
    """The samples with a label, as often as it takes for an epoch to have as many steps as one of all samples."""
    if (labels != UNLABELLED).all():
        return everything(material, labels, taught)
    chosen = np.resize(np.flatnonzero(labels != UNLABELLED), len(labels))
    outputs = None if taught is None else taught.outputs[:, chosen]
    return Examples(material.inputs[:, chosen], torch.from_numpy(labels[chosen]), outputs)


def built(network: Network, material: Material, seed: int) -> nn.Module:
    """Untrained, the same from the same seed."""
    deterministic(seed)
    return build(material.architecture(network.model, network.args), "benchmark")


def train(
    module: nn.Module,
    teacher: nn.Module | None,
    objective: ObjectiveConfig,
    examples: Examples,
    training: Training,
    seed: int,
) -> None:
    """Train the module in place; see `edgekd.distill.trainer.fit`."""
    fit(Distiller(module, teacher, build_objective(objective)), examples, training, seed)


def accuracy_of(module: nn.Module, material: Material) -> float:
    """On the test split, 0 to 1."""
    return score(predict(module, material.test), material.test_labels, "classification")
