"""The steps around distillation: a teacher, its cached outputs, and the student that learns from them."""

from collections.abc import Mapping

import numpy as np
from torch import nn

from edgekd.artifact import Artifact, Facts
from edgekd.distill.distiller import Distiller, supervised
from edgekd.distill.examples import load_examples, load_validation
from edgekd.distill.logs import keep
from edgekd.distill.objectives import build_objective
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
from edgekd.models.evaluate import load_array, predict, quality
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
        distiller, validation = Distiller(module, None, supervised(outputs)), load_validation(data)
        fit(
            distiller,
            examples,
            teacher.train,
            work.seed,
            work.progress,
            validation=validation,
            folder=work.scratch,
        )
        keep(work.scratch, work.out)
    save_module(module, architecture, work.out)
    return _model_facts(module, architecture, data)


def cache_outputs(work: Work[None]) -> Facts:
    """The teacher's logits for every view of the training set. File: `train.npy`, float32 (views, N, classes).

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
    np.save(work.out / "train.npy", np.stack(views))
    data = work.inputs["data"]
    for split in ("validation", "test"):
        if f"{split}_inputs.npy" in data.files:
            np.save(work.out / f"{split}.npy", predict(teacher, load_array(data.file(f"{split}_inputs.npy"))))
    return {"outputs": len(views) * len(views[0])}


def distill_student(work: Work[StudentConfig]) -> Facts:
    """Train the student on its objective. Files: weights and architecture.

    The teacher's outputs come as `outputs`, or from `teacher` itself for each batch; without either it trains alone.
    """
    deterministic(work.seed)
    config, data = work.config, work.inputs["data"]
    architecture = architecture_for(config.student.model, config.student.args, data)
    module = build(architecture, "student")
    if config.student.weights is not None:
        load_weights(module, config.student.weights, "student")
    teacher = load_module(work.inputs["teacher"].path, "teacher")[0] if "teacher" in work.inputs else None
    objective, outputs = build_objective(config.objective, data.facts["outputs"]), work.inputs.get("outputs")
    examples, validation = load_examples(data, outputs), load_validation(data, outputs)
    if not (objective.needs_teacher or objective.teacher_taps):
        check_taught(examples.labels.numpy(), data.facts["outputs"], data.facts["labels"])
    fit(
        Distiller(module, teacher, objective),
        examples,
        config.train,
        work.seed,
        work.progress,
        validation=validation,
        folder=work.scratch,
    )
    keep(work.scratch, work.out)
    save_module(module, architecture, work.out)
    return _model_facts(module, architecture, data, outputs)


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
