"""The steps around distillation: a teacher, its cached outputs, and the student that learns from them."""

from collections.abc import Mapping

import numpy as np
from torch import nn

from edgekd.artifact import Artifact, Facts
from edgekd.distill.distiller import Distiller, supervised
from edgekd.distill.examples import load_examples
from edgekd.distill.objectives import default_objective
from edgekd.distill.trainer import fit
from edgekd.errors import GateError
from edgekd.models.build import (
    Architecture,
    build,
    example_input,
    load_module,
    load_weights,
    parameter_count,
    save_module,
)
from edgekd.models.cost import macs
from edgekd.models.evaluate import predict, quality
from edgekd.recipe import Teacher
from edgekd.seeding import deterministic
from edgekd.step import Work
from edgekd.step_configs import StudentConfig
from edgekd.tasks.labels import check_taught


def train_teacher(work: Work[Teacher]) -> Facts:
    """Load the teacher's weights, or train it on the hard labels. Files: weights and architecture."""
    deterministic(work.seed)
    teacher, data = work.config, work.inputs["data"]
    architecture = architecture_for(teacher.model, teacher.args, data)
    module = build(architecture, "teacher")
    if teacher.weights is not None:
        load_weights(module, teacher.weights, "teacher")
    if teacher.train is not None:
        examples, outputs = load_examples(data), data.facts["outputs"]
        check_taught(examples.labels.numpy(), outputs, data.facts["labels"])
        fit(Distiller(module, None, supervised(outputs)), examples, teacher.train, work.seed, work.progress)
    save_module(module, architecture, work.out)
    return _model_facts(module, architecture, data)


def cache_outputs(work: Work[None]) -> Facts:
    """The teacher's logits for every view of the training set. File: `logits.npy`, float32 (views, N, classes).

    Raises GateError if an output is not finite, naming the sample.
    """
    deterministic(work.seed)
    teacher, _ = load_module(work.inputs["teacher"].path, "teacher")
    inputs = load_examples(work.inputs["data"]).inputs
    views = []
    for view in range(len(inputs)):
        logits = predict(teacher, inputs[view])
        if not np.isfinite(logits).all():
            sample = int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])
            raise GateError(f"teacher: its outputs for training sample {sample} are not finite; check its weights")
        views.append(logits)
        work.progress(view + 1, len(inputs))
    np.save(work.out / "logits.npy", np.stack(views))
    return {"outputs": len(views) * len(views[0])}


def distill_student(work: Work[StudentConfig]) -> Facts:
    """Train the student on hard labels and the teacher's softened outputs. Files: weights and architecture."""
    deterministic(work.seed)
    student, distill, data = work.config.student, work.config.distill, work.inputs["data"]
    architecture = architecture_for(student.model, student.args, data)
    module = build(architecture, "student")
    if student.weights is not None:
        load_weights(module, student.weights, "student")
    objective = default_objective(data.facts["outputs"], distill.temperature, distill.weight)
    fit(
        Distiller(module, None, objective),
        load_examples(data, work.inputs["outputs"]),
        distill.train,
        work.seed,
        work.progress,
    )
    save_module(module, architecture, work.out)
    return _model_facts(module, architecture, data, work.inputs["outputs"])


def architecture_for(model: str, args: Mapping[str, object], data: Artifact) -> Architecture:
    facts = data.facts
    return Architecture(model, args, tuple(facts["input_shape"]), len(facts["labels"]), facts["vocabulary"])


def _model_facts(
    module: nn.Module, architecture: Architecture, data: Artifact, teacher: Artifact | None = None
) -> Facts:
    return {
        "model": architecture.model,
        "params": parameter_count(module),
        "macs": macs(module, example_input(architecture)),
        **quality(module, data, teacher),
    }
