"""The step that measures an exported file on a device."""

import dataclasses

import numpy as np

from edgekd.artifact import Facts
from edgekd.bench.measurement import measure
from edgekd.bench.protocol import PROTOCOLS
from edgekd.runtimes import open_session
from edgekd.step import Work
from edgekd.step_configs import MeasureConfig
from edgekd.tasks.dataset import raw_pixels


def measure_export(work: Work[MeasureConfig]) -> Facts:
    """Measure an exported file, fed with the first test sample. File: `samples.npy`, nanoseconds.

    A model that could not be exported is skipped, and the facts say why.
    """
    export = work.inputs["export"]
    if export.facts["file"] is None:
        return {"skipped": export.facts["why"]}
    file = export.path / str(export.facts["file"])
    data = work.inputs["data"]
    sample = np.load(data.file("test_inputs.npy"), mmap_mode="r")[:1]
    measurement = measure(
        file,
        work.config.device,
        PROTOCOLS[work.config.protocol],
        [open_session(file, runtime=work.config.runtime).encode(sample, raw_pixels(data.facts["preprocessing"]))],
        work.out / "samples.npy",
        work.progress,
    )
    return dataclasses.asdict(measurement)
