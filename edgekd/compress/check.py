"""Before any training: can the student be shrunk as the recipe says?"""

import dataclasses
from contextlib import nullcontext

from edgekd.artifact import Facts
from edgekd.compress.latency import share_of_latency
from edgekd.compress.shrink import shrink
from edgekd.models.build import build, example_input, parameter_count
from edgekd.models.cost import macs
from edgekd.models.students import drafted
from edgekd.recipe import Factorize
from edgekd.seeding import deterministic
from edgekd.step import Work
from edgekd.step_configs import CompressionCheckConfig
from edgekd.tasks.outline import outline

LOWEST = 1e-6
"""Of ranks: the energies of untrained weights tell nothing."""


def check_compression(work: Work[CompressionCheckConfig]) -> Facts:
    """Shrink the untrained student by each entry in turn. Of a latency, that of the smallest student is measured, and
    that of others guessed. Raises UsageError where it cannot be.
    """
    deterministic(work.seed)
    config, data = work.config, outline(work.config.task, work.seed)
    architecture = drafted(config.student, data)
    module = build(architecture, "student")
    for compression, timing in zip(config.compress, config.timings, strict=True):
        if isinstance(compression, Factorize) and compression.energy is not None:
            compression = dataclasses.replace(compression, energy=None, rank=LOWEST)
        taken = (
            share_of_latency(module, data, timing.target, work.seed, weight_bits=timing.weight_bits)
            if timing
            else nullcontext()
        )
        with taken as latency:
            module, architecture = shrink(compression, module, architecture, lambda model: None, latency, 0)
    return {"params": parameter_count(module), "macs": macs(module, example_input(architecture))}
