"""Before any training: can the untrained student be exported, and does the runtime take all of it?"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from edgekd.artifact import Facts
from edgekd.errors import GateError, UsageError
from edgekd.export.card import Card, output_of
from edgekd.export.draft import SAMPLES, draft
from edgekd.models.build import build, example_input
from edgekd.models.students import drafted
from edgekd.readers import read_graph
from edgekd.runtimes import open_session
from edgekd.seeding import deterministic
from edgekd.step import Work
from edgekd.step_configs import PreflightConfig
from edgekd.tasks.outline import noise, outline
from edgekd.verify.coverage import asked_transposes, check_coverage, coverage
from edgekd.verify.readback import read_back

DEVIATION = 0.02
"""Of what stands in for zeros."""


def preflight(work: Work[PreflightConfig]) -> Facts:
    """Quantize the student on noise, export it, read its scales back and look at where its operations run.

    Raises UsageError if data and student do not fit or there are fewer samples than it is to be calibrated on,
    ExportError naming the operation and the layer that the format does not have, GateError for operations beyond the
    target's limits.
    """
    deterministic(work.seed)
    config, data = work.config, outline(work.config.task, work.seed)
    if (config.calibration_samples or 0) > data.train_samples:
        raise UsageError(
            f"quantize.calibration_samples: {config.calibration_samples} are asked for, the training split has "
            f"{data.train_samples}; ask for fewer"
        )
    target, architecture = config.target, drafted(config.student, data)
    module, example = _begun(build(architecture, "student")), example_input(architecture)
    output = output_of(target.output, data.outputs)
    card = Card("preflight", data.labels, output, data.preprocessing, data.outputs)
    with TemporaryDirectory(prefix="edgekd-") as place:
        samples = torch.from_numpy(noise(data, SAMPLES, work.seed))
        made = draft(module, samples, target, card, Path(place), config.weight_bits)
        graph = read_graph(made.file)
        if problems := read_back(made.table, graph).problems:
            raise GateError(f"preflight: {problems[0]}; the export would not keep what is learned")
        placement = open_session(made.file, runtime=target.runtime).placement()
        found = coverage(graph, placement, asked_transposes(made.source, example))
        check_coverage(target.coverage, found)
        size = sum(part.stat().st_size for part in Path(place).rglob("*") if part.is_file())
    return {"bytes": size, "ops": found.document()}


def _begun(module: nn.Module) -> nn.Module:
    """Parameters that start at zero leave it in training: zeros alone have no scale that a runtime could take."""
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=DEVIATION)
    return module
