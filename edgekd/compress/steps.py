"""The steps that shrink a float student, and the one that makes the quantized program."""

import dataclasses
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekd.artifact import Artifact, Facts
from edgekd.compress.program import QuantizedProgram, load_program, save_program
from edgekd.compress.prune import Cost
from edgekd.compress.qat import quantize
from edgekd.compress.quantizers import write_table
from edgekd.compress.sensitivity import Samples, fewest_float, sensitivity
from edgekd.compress.shrink import shrink
from edgekd.compress.sparsify import holding_zeros, sparsity_of
from edgekd.distill.distiller import Distiller
from edgekd.distill.examples import Examples, load_examples, load_validation
from edgekd.distill.logs import keep
from edgekd.distill.objectives import build_objective
from edgekd.distill.steps import model_facts
from edgekd.distill.trainer import fit
from edgekd.errors import GateError
from edgekd.models.build import load_architecture, load_module, save_module
from edgekd.models.evaluate import predict, quality
from edgekd.recipe import MixedPrecision, Training
from edgekd.seeding import deterministic
from edgekd.step import Work
from edgekd.step_configs import CompressConfig, QuantizeConfig
from edgekd.tasks.dataset import pixel_range
from edgekd.tasks.labels import known_in_full
from edgekd.tasks.metrics import score

CALIBRATION_SAMPLES = 256
"""Where the recipe gives no number."""


def compress_student(work: Work[CompressConfig], latency: Cost | None = None) -> Facts:
    """Prune, factorize or make sparse, and recover by distillation. Files: those of `save_module`, and the log.

    `bought` tells what it cost and saved: the parameters and multiply-accumulates before and after, and the score
    before, that without recovery (after the first round of pruning, if there are several), and after; with `latency`,
    by which to prune, what share of that is left.
    """
    deterministic(work.seed)
    student, data, teacher = work.inputs["student"], work.inputs["data"], work.inputs["outputs"]
    module, architecture = load_module(student.path, "student")
    learning, scores = _Learning.of(work), []

    def recover(model: nn.Module) -> None:
        scores.append(quality(model, data)["accuracy"])
        learning.fit(model, work.config.compression.train, work.scratch and work.scratch / str(len(scores)))

    smaller, architecture = shrink(work.config.compression, module, architecture, recover, latency)
    keep(work.scratch and work.scratch / str(len(scores)), work.out)
    save_module(smaller, architecture, work.out)
    found = model_facts(smaller, architecture, data, teacher)
    bought: dict[str, Any] = {name: [student.facts[name], found[name]] for name in ("params", "macs")}
    bought["accuracy"] = [student.facts["accuracy"], scores[0], found["accuracy"]]
    if latency is not None:
        bought["latency"] = latency(smaller)
    return {**found, "bought": bought, "sparsity": dataclasses.asdict(sparsity_of(smaller))}


def quantize_student(work: Work[QuantizeConfig]) -> Facts:
    """Fold batch norm and calibrate; for QAT, train with quantizers in place and the distillation losses on.

    Zeros of a sparse student stay. Files: `weights.safetensors`, `quantizers.json`, `architecture.json` (see
    `load_program`) and `table.json`.
    """
    deterministic(work.seed)
    student, data = work.inputs["student"], work.inputs["data"]
    module, _ = load_module(student.path, "student")
    config = work.config.quantization
    learning, training = _Learning.of(work), config.train

    def train(model: nn.Module) -> None:
        assert training is not None
        with holding_zeros(model) if student.state.structure == "sparse" else nullcontext():
            learning.fit(model, training, work.scratch)
        keep(work.scratch, work.out)

    layers: list[dict[str, Any]] = []

    def choose(model: nn.Module, example: torch.Tensor) -> tuple[str, ...]:
        samples = _judging(work, module, learning)
        if config.sensitivity:
            layers.extend(dataclasses.asdict(one) for one in sensitivity(model, example, samples))
        return fewest_float(model, example, samples, config.mixed.floor) if config.mixed else ()

    calibration = _calibration(learning.examples.inputs[0], work.config, work.seed)
    outputs = _numbers(learning.examples) if data.facts["outputs"] == "regression" else None
    pixels = pixel_range(data.facts["preprocessing"])
    judge = choose if config.sensitivity or config.mixed else None
    program = quantize(module, calibration, train if training else None, pixels, outputs, judge, config.weight_bits)
    save_program(program, student.file("architecture.json"), work.out)
    write_table(program.table, work.out / "table.json")
    _check_restored(program, work, learning.examples.inputs[0][:64])
    return {
        **quality(program.model, data, work.inputs["outputs"]),
        "quantizers": len(program.table),
        "float_layers": list(program.float_layers),
        "sensitivity": layers,
    }


@dataclass(frozen=True)
class _Learning:
    """What a student that is compressed goes on to learn from."""

    work: Work[Any]
    examples: Examples
    validation: Examples | None

    @classmethod
    def of(cls, work: Work[Any]) -> "_Learning":
        data, outputs = work.inputs["data"], work.inputs["outputs"]
        return cls(work, load_examples(data, outputs), load_validation(data, outputs))

    def fit(self, model: nn.Module, training: Training, folder: Path | None) -> None:
        work = self.work
        objective = build_objective(work.config.objective, work.inputs["data"].facts["outputs"])
        distiller = Distiller(model, None, objective)
        fit(distiller, self.examples, training, work.seed, work.progress, validation=self.validation, folder=folder)


def restore_program(artifact: Artifact) -> QuantizedProgram:
    """The quantized program of a finished step."""
    return load_program(artifact.path, load_architecture(artifact.path))


def _calibration(inputs: torch.Tensor, config: QuantizeConfig, seed: int) -> torch.Tensor:
    asked = config.quantization.calibration_samples or CALIBRATION_SAMPLES
    return inputs[_drawn(np.arange(len(inputs)), asked, seed)]


def _drawn(places: np.ndarray, count: int, seed: int) -> torch.Tensor:
    """So many of these places, or all if there are fewer, in their order."""
    chosen = np.random.default_rng(seed).choice(places, min(count, len(places)), replace=False)
    return torch.from_numpy(np.sort(chosen))


def _judging(work: Work[QuantizeConfig], module: nn.Module, learning: "_Learning") -> Samples:
    """Labelled samples to judge a quantized student on, beside the float one."""
    examples, data = learning.validation or learning.examples, work.inputs["data"]
    mixed = work.config.quantization.mixed or MixedPrecision(floor=0.0)
    labelled = np.flatnonzero(known_in_full(examples.labels.numpy()))
    places = _drawn(labelled, mixed.samples, work.seed)
    inputs, labels = examples.inputs[0][places], examples.labels[places].numpy()
    return Samples(inputs, predict(module, inputs), lambda found: score(found, labels, data.facts["outputs"]))


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
