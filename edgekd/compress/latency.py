"""The latency of a student that is pruned, taken on this machine: as a share of that of the whole one."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from edgekd.artifact import Facts
from edgekd.bench.interleaved import compare
from edgekd.compress.steps import compress_student
from edgekd.export.card import Card, output_of
from edgekd.export.draft import SAMPLES, draft
from edgekd.keys import digest
from edgekd.models.build import load_module
from edgekd.processes import from_leader
from edgekd.step import Work
from edgekd.step_configs import CompressConfig
from edgekd.target import Target
from edgekd.tasks.outline import Outline, noise, outline_of

NOTES = "latency.json"
PROCESSES, SECONDS = 3, 0.4
"""Of a comparison: its ratios repeat to about 1 %."""


def prune_by_latency(work: Work[CompressConfig]) -> Facts:
    """`compress_student` until a share of the latency is left. Another run may choose other channels: times vary."""
    data, timing = work.inputs["data"], work.config.timing
    assert timing is not None
    module, _ = load_module(work.inputs["student"].path, "student")
    outline = outline_of(data.facts)
    with share_of_latency(module, outline, timing.target, work.seed, work.scratch, timing.weight_bits) as latency:
        facts = compress_student(work, latency)
    share = {"ratio": facts["bought"]["latency"], "runtime": timing.target.runtime, "on": "this machine"}
    return {**facts, "bought": {**facts["bought"], "latency": share}}


@contextmanager
def share_of_latency(
    module: nn.Module, data: Outline, target: Target, seed: int, memory: Path | None = None, weight_bits: int = 8
) -> Iterator[Callable[[nn.Module], float]]:
    """What a smaller copy takes of the module's time: both as files of the target, in its runtime, in turns.

    The files are calibrated on noise. What has the same shapes is not measured again, whatever its weights; memory: a
    folder to keep that in, so that a build that was killed chooses as before. Of several processes of a launch the
    first measures, for all.
    """
    known = from_leader(lambda: _noted(memory)) | {_shapes(module): 1.0}
    card = Card("draft", data.labels, output_of(target.output, data.outputs), data.preprocessing, data.outputs)
    samples = torch.from_numpy(noise(data, SAMPLES, seed))
    with TemporaryDirectory(prefix="edgekd-") as place:

        def file_of(model: nn.Module) -> Path:
            folder = Path(place) / str(len(list(Path(place).iterdir())))
            folder.mkdir()
            return draft(model, samples, target, card, folder, weight_bits).file

        def measured(model: nn.Module) -> float:
            file = file_of(model)
            found = compare(file, whole, runtime=target.runtime, processes=PROCESSES, seconds=SECONDS).ratio.value
            if memory is not None:
                _note(memory, {**known, _shapes(model): found})
            return found

        def share(model: nn.Module) -> float:
            shapes = _shapes(model)
            if shapes not in known:
                known[shapes] = from_leader(lambda: measured(model))
            return known[shapes]

        whole = from_leader(lambda: file_of(module))
        yield share


def _shapes(model: nn.Module) -> str:
    return digest([list(parameter.shape) for parameter in model.parameters()])


def _noted(memory: Path | None) -> dict[str, float]:
    file = memory and memory / NOTES
    return json.loads(file.read_text()) if file and file.is_file() else {}


def _note(memory: Path, known: dict[str, float]) -> None:
    """Write the file aside and rename it: a build killed meanwhile finds the one before."""
    aside = memory / f"{NOTES}.partial"
    aside.write_text(json.dumps(known))
    aside.replace(memory / NOTES)
