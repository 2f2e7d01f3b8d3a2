"""The step that makes the quantized program."""

import numpy as np
import torch
from torch import nn

from edgekd.artifact import Artifact, Facts
from edgekd.compress.program import QuantizedProgram, load_program, save_program
from edgekd.compress.qat import quantize
from edgekd.compress.quantizers import write_table
from edgekd.distill.distiller import Distiller
from edgekd.distill.examples import Examples, load_examples, load_validation
from edgekd.distill.logs import keep
from edgekd.distill.objectives import build_objective
from edgekd.distill.trainer import fit
from edgekd.errors import GateError
from edgekd.models.build import load_architecture, load_module
from edgekd.models.evaluate import quality
from edgekd.seeding import deterministic
from edgekd.step import Work
from edgekd.step_configs import QuantizeConfig
from edgekd.tasks.dataset import pixel_range


def quantize_student(work: Work[QuantizeConfig]) -> Facts:
    """Fold batch norm, calibrate, and train with quantizers in place and the distillation losses on.

    Files: `weights.safetensors`, `quantizers.json`, `architecture.json` (see `load_program`) and `table.json`.
    """
    deterministic(work.seed)
    student, data = work.inputs["student"], work.inputs["data"]
    module, _ = load_module(student.path, "student")
    examples, validation = load_examples(data, work.inputs["outputs"]), load_validation(data, work.inputs["outputs"])
    objective = build_objective(work.config.objective, data.facts["outputs"])

    def train(model: nn.Module) -> None:
        distiller, training = Distiller(model, None, objective), work.config.quantization.train
        fit(distiller, examples, training, work.seed, work.progress, validation=validation, folder=work.scratch)
        keep(work.scratch, work.out)

    calibration = _calibration(examples.inputs[0], work.config, work.seed)
    outputs = _numbers(examples) if data.facts["outputs"] == "regression" else None
    program = quantize(module, calibration, train, pixel_range(data.facts["preprocessing"]), outputs)
    save_program(program, student.file("architecture.json"), work.out)
    write_table(program.table, work.out / "table.json")
    _check_restored(program, work, examples.inputs[0][:64])
    return {**quality(program.model, data, work.inputs["outputs"]), "quantizers": len(program.table)}


def restore_program(artifact: Artifact) -> QuantizedProgram:
    """The quantized program of a finished step."""
    return load_program(artifact.path, load_architecture(artifact.path))


def _calibration(inputs: torch.Tensor, config: QuantizeConfig, seed: int) -> torch.Tensor:
    count = min(config.quantization.calibration_samples, len(inputs))
    chosen = np.sort(np.random.default_rng(seed).choice(len(inputs), count, replace=False))
    return inputs[torch.from_numpy(chosen)]


def _numbers(examples: Examples) -> tuple[float, float]:
    """The smallest and the largest number that is asked for, by the labels or by the teacher."""
    asked = [examples.labels[~examples.labels.isnan()], *([] if examples.teacher is None else [examples.teacher])]
    return min(float(one.min()) for one in asked if one.numel()), max(float(one.max()) for one in asked if one.numel())


def _check_restored(program: QuantizedProgram, work: Work[QuantizeConfig], inputs: torch.Tensor) -> None:
    restored = load_program(work.out, load_architecture(work.out))
    with torch.no_grad():
        same = torch.equal(restored.model(inputs), program.model(inputs))
    if not same or restored.table != program.table:
        raise GateError("quantize: the saved program does not answer like the trained one; report this as a bug")
