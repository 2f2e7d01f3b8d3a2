"""Before any training: can the untrained student be exported, and does the runtime take all of it?"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from edgekd.artifact import Facts
from edgekd.compress.qat import quantize
from edgekd.compress.quantizers import kept
from edgekd.errors import GateError
from edgekd.export.card import Card, output_of
from edgekd.export.formats import export, export_float
from edgekd.models.build import build, example_input
from edgekd.models.students import drafted
from edgekd.readers import read_graph
from edgekd.runtimes import open_session
from edgekd.seeding import deterministic
from edgekd.step import Work
from edgekd.step_configs import PreflightConfig
from edgekd.tasks.dataset import pixel_range
from edgekd.tasks.outline import noise, outline
from edgekd.verify.coverage import asked_transposes, check_coverage, coverage
from edgekd.verify.readback import read_back

CALIBRATION_SAMPLES = 8


def preflight(work: Work[PreflightConfig]) -> Facts:
    """Quantize the student on noise, export it, read its scales back and look at where its operations run.

    Raises UsageError if data and student do not fit, ExportError naming the operation and the layer that the format
    does not have, GateError for operations beyond the target's limits.
    """
    deterministic(work.seed)
    config, data = work.config, outline(work.config.task, work.seed)
    target, architecture = config.target, drafted(config.student, data)
    module, example = build(architecture, "student"), example_input(architecture)
    output = output_of(target.output, data.outputs)
    card = Card("preflight", data.labels, output, data.preprocessing, data.outputs)
    with TemporaryDirectory(prefix="edgekd-") as place:
        if target.precision in ("float32", "float16"):
            file = export_float(module, example, target.format, target.precision, Path(place), card)
            source, table = module, kept((), target.precision)
        else:
            calibration = torch.from_numpy(noise(data, CALIBRATION_SAMPLES, work.seed))
            pixels = pixel_range(data.preprocessing)
            program = quantize(module, calibration, None, pixels, weight_bits=config.weight_bits)
            file = export(program, target, Path(place), card)
            source, table = program.frozen(stored=False), kept(program.table, target.precision)
        graph = read_graph(file)
        if problems := read_back(table, graph).problems:
            raise GateError(f"preflight: {problems[0]}; the export would not keep what is learned")
        placement = open_session(file, runtime=target.runtime).placement()
        found = coverage(graph, placement, asked_transposes(source, example))
        check_coverage(target.coverage, found)
        size = sum(part.stat().st_size for part in Path(place).rglob("*") if part.is_file())
    return {"bytes": size, "ops": found.document()}
