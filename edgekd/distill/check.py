"""Before any training: does the objective fit the student, the teacher and the data?"""

import dataclasses

import torch
from torch import nn

from edgekd.artifact import Facts
from edgekd.distill.distiller import Distiller
from edgekd.distill.objectives import build_objective
from edgekd.models.build import Architecture, build
from edgekd.models.students import drafted, start
from edgekd.recipe import TorchTeacher
from edgekd.seeding import deterministic
from edgekd.step import Work
from edgekd.step_configs import ObjectiveCheckConfig
from edgekd.tasks.outline import Outline, noise, outline

SAMPLES = 4


def check_objective(work: Work[ObjectiveCheckConfig]) -> Facts:
    """One step of the untrained student on noise: every loss is computed once, with its gradient. A teacher that only
    answers answers noise.

    Raises UsageError for a layer that a model does not have, shapes that do not fit each other, and losses that make
    no sense for the task.
    """
    deterministic(work.seed)
    config, data = work.config, outline(work.config.task, work.seed)

    architecture = drafted(config.student, data)
    student = build(architecture, "student")
    start(student, config.student, architecture, data.labels)
    teacher = None if config.teacher is None else _built(config.teacher, architecture)
    answers = torch.randn(SAMPLES, len(data.labels)) if teacher is None else None
    distiller = Distiller(student, teacher, build_objective(config.objective, data.outputs))
    inputs = torch.from_numpy(noise(data, SAMPLES, work.seed))
    distiller.prepare(inputs, answers)
    loss, parts = distiller.train()(inputs, _labels(data), answers)
    loss.backward()  # type: ignore[no-untyped-call]
    return {"losses": sorted(parts)}


def _built(teacher: TorchTeacher, student: Architecture) -> nn.Module:
    """For the same data as a student."""
    return build(dataclasses.replace(student, model=teacher.model, args=teacher.args), "teacher")


def _labels(data: Outline) -> torch.Tensor:
    """Labels of the right kind for SAMPLES samples; see `edgekd.distill.losses.Signals`."""
    if data.outputs == "classification":
        return torch.arange(SAMPLES) % len(data.labels)
    labels = torch.arange(SAMPLES * len(data.labels)).reshape(SAMPLES, -1) % 2
    return labels.float() if data.outputs == "regression" else labels
