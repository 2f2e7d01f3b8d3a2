"""Trainings in processes of their own, which can be killed, or be several: python -m tests.distill.job JSON."""

import dataclasses
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from edgekd.distill.distiller import Distiller, Objective, soft_targets, supervised
from edgekd.distill.examples import Examples
from edgekd.distill.trainer import fit
from edgekd.models.text_encoder import text_encoder
from edgekd.recipe import Training
from tests.launch import launch


@dataclass
class Job:
    """A training to run: its student and its data, and after how many forward passes in training it kills itself."""

    student: Literal["norm", "text"]
    training: dict[str, Any]
    count: int = 64
    unlabelled: bool = False
    validation: bool = False
    dropout: float = 0.0
    folder: str | None = None
    dies_at: int | None = None
    teacher: bool = False
    result: str = ""


def make_examples(job: Job) -> Examples:
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(job.count) % 3
    if job.student == "text":
        inputs = torch.randint(0, 20, (2, job.count, 6), generator=random, dtype=torch.int32)
    else:
        inputs = 4.0 * torch.eye(3, 36)[labels].reshape(-1, 1, 6, 6) + torch.randn(
            2, job.count, 1, 6, 6, generator=random
        )
    if job.unlabelled:
        labels = labels.masked_fill(torch.rand(job.count, generator=random) < 0.4, -1)
    teacher = torch.randn(2, job.count, 3, generator=random) if job.teacher else None
    return Examples(inputs, labels, teacher)


def make_student(job: Job) -> nn.Module:
    torch.manual_seed(7)
    if job.student == "text":
        return text_encoder((6,), 3, vocabulary=20, width=8, layers=1, heads=2, hidden=16, dropout=0.0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(job.dropout),
        nn.Linear(64, 3),
    )


def run(job: Job) -> dict[str, torch.Tensor]:
    """The weights at the end."""
    student, examples = make_student(job), make_examples(job)
    if job.dies_at is not None:
        student.register_forward_pre_hook(_Death(job.dies_at))
    objective: Objective = soft_targets(2.0, 0.5) if job.teacher else supervised()
    folder = None if job.folder is None else Path(job.folder)
    validation = make_examples(dataclasses.replace(job, unlabelled=False))
    fit(
        Distiller(student, None, objective),
        examples,
        Training(**job.training),
        seed=3,
        validation=validation if job.validation else None,
        folder=folder,
    )
    return student.state_dict()


class _Death:
    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        self.left -= module.training
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def run_apart(job: Job, processes: int = 1) -> list[int]:
    """Run a job in processes of its own; their exit codes."""
    return [run.code for run in launch("tests.distill.job", [json.dumps(dataclasses.asdict(job))], processes)]


def main() -> None:
    torch.use_deterministic_algorithms(True)
    job = Job(**json.loads(sys.argv[1]))
    weights = run(job)
    if os.environ.get("RANK", "0") == "0":
        torch.save(weights, job.result)


if __name__ == "__main__":
    main()
