"""The step that measures an exported file on a device."""

import dataclasses

import numpy as np

from edgekd.artifact import Facts
from edgekd.bench.measurement import measure
from edgekd.bench.protocol import PROTOCOLS
from edgekd.step import Work
from edgekd.step_configs import MeasureConfig


def measure_export(work: Work[MeasureConfig]) -> Facts:
    """Measure the exported file. It is fed a real sample where it was verified. File: `samples.npy`, nanoseconds.

    A model that could not be exported is skipped, and the facts say why.
    """
    export = work.inputs["export"]
    if export.facts["file"] is None:
        return {"skipped": export.facts["why"]}
    with np.load(work.inputs["checks"].file("golden.npz")) as golden:
        sample = golden["input"][:1] if export.state.precision == "int8" else golden["float_input"][:1]
    measurement = measure(
        export.file(export.facts["file"]),
        work.config.device,
        PROTOCOLS[work.config.protocol],
        [sample],
        work.out / "samples.npy",
        work.progress,
    )
    return dataclasses.asdict(measurement)
