"""Before any training: can the student be shrunk as the recipe says?"""

from edgekd.artifact import Facts
from edgekd.compress.shrink import shrink
from edgekd.models.build import Architecture, build, example_input, parameter_count
from edgekd.models.cost import macs
from edgekd.seeding import deterministic
from edgekd.step import Work
from edgekd.step_configs import CompressionCheckConfig
from edgekd.tasks.outline import outline


def check_compression(work: Work[CompressionCheckConfig]) -> Facts:
    """Shrink the untrained student by each entry in turn. Raises UsageError where it cannot be."""
    deterministic(work.seed)
    config, data = work.config, outline(work.config.task, work.seed)
    student = config.student
    architecture = Architecture(student.model, student.args, data.input_shape, len(data.labels), data.vocabulary)
    module = build(architecture, "student")
    for compression in config.compress:
        module, architecture = shrink(compression, module, architecture, lambda model: None)
    return {"params": parameter_count(module), "macs": macs(module, example_input(architecture))}
