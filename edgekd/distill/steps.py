"""The step of distillation: a student that learns from the labels and from its teacher's outputs."""

from collections.abc import Mapping

from torch import nn

from edgekd.artifact import Artifact, Facts
from edgekd.distill.distiller import Distiller, soft_targets
from edgekd.distill.examples import load_examples
from edgekd.distill.trainer import fit
from edgekd.models.build import (
    Architecture,
    build,
    example_input,
    load_weights,
    parameter_count,
    save_module,
)
from edgekd.models.cost import macs
from edgekd.models.evaluate import accuracy
from edgekd.seeding import deterministic
from edgekd.step import Work
from edgekd.step_configs import StudentConfig


def distill_student(work: Work[StudentConfig]) -> Facts:
    """Train the student on hard labels and the teacher's softened outputs. Files: weights and architecture."""
    deterministic(work.seed)
    student, distill, data = work.config.student, work.config.distill, work.inputs["data"]
    architecture = architecture_for(student.model, student.args, data)
    module = build(architecture, "student")
    if student.weights is not None:
        load_weights(module, student.weights, "student")
    objective = soft_targets(distill.temperature, distill.weight)
    fit(
        Distiller(module, None, objective),
        load_examples(data, work.inputs["outputs"]),
        distill.train,
        work.seed,
        work.progress,
    )
    save_module(module, architecture, work.out)
    return _model_facts(module, architecture, data)


def architecture_for(model: str, args: Mapping[str, object], data: Artifact) -> Architecture:
    facts = data.facts
    return Architecture(model, args, tuple(facts["input_shape"]), len(facts["labels"]), facts["vocabulary"])


def _model_facts(module: nn.Module, architecture: Architecture, data: Artifact) -> Facts:
    return {
        "model": architecture.model,
        "params": parameter_count(module),
        "macs": macs(module, example_input(architecture)),
        "accuracy": accuracy(module, data),
    }
