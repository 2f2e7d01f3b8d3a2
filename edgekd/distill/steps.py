"""The step of distillation: a student that learns from the labels and from its teacher's outputs."""

from collections.abc import Mapping

from torch import nn

from edgekd.artifact import Artifact, Facts
from edgekd.distill.distiller import Distiller
from edgekd.distill.examples import load_examples, load_validation
from edgekd.distill.logs import keep
from edgekd.distill.objectives import build_objective
from edgekd.distill.trainer import fit
from edgekd.models.build import (
    Architecture,
    build,
    example_input,
    load_module,
    parameter_count,
    save_module,
)
from edgekd.models.cost import macs
from edgekd.models.evaluate import quality
from edgekd.models.students import fitted, start
from edgekd.seeding import deterministic
from edgekd.step import Work
from edgekd.step_configs import StudentConfig
from edgekd.tasks.labels import check_taught


def distill_student(work: Work[StudentConfig]) -> Facts:
    """Train the student on its objective. Files: weights and architecture.

    The teacher's outputs come as `outputs`, or from `teacher` itself for each batch; without either it trains alone.
    `fresh` names the weights of a folder's head that did not fit the classes, and started anew.
    """
    deterministic(work.seed)
    config, data = work.config, work.inputs["data"]
    architecture = fitted(config.student, data)
    module = build(architecture, "student")
    fresh = start(module, config.student, architecture, data.facts["labels"])
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
    return {**model_facts(module, architecture, data, outputs), "fresh": list(fresh)}


def architecture_for(model: str, args: Mapping[str, object], data: Artifact) -> Architecture:
    facts = data.facts
    return Architecture(model, args, tuple(facts["input_shape"]), len(facts["labels"]), facts["vocabulary"])


def model_facts(
    module: nn.Module, architecture: Architecture, data: Artifact, teacher: Artifact | None = None
) -> Facts:
    """Size, cost and quality of a module. teacher: its cached outputs."""
    return {
        "model": architecture.model,
        "params": parameter_count(module),
        "macs": macs(module, example_input(architecture)),
        **quality(module, data, teacher),
    }
