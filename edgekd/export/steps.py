"""The steps that write a model in a target's format."""


from edgekd.artifact import Facts
from edgekd.compress.fold import fold_batch_norm
from edgekd.compress.steps import restore_program
from edgekd.export import tflite
from edgekd.models.build import example_input, load_module
from edgekd.seeding import deterministic
from edgekd.step import Work
from edgekd.step_configs import ExportConfig

MODEL_FILE = {"tflite": "model.tflite"}


def export_quantized(work: Work[ExportConfig]) -> Facts:
    """Write the quantized program. File: the model."""
    deterministic(work.seed)
    program = restore_program(work.inputs["program"])
    file = work.out / MODEL_FILE[work.config.format]
    tflite.export_int8(program.frozen(stored=False), program.example, file)
    return {"file": file.name, "bytes": file.stat().st_size}


def export_float(work: Work[ExportConfig]) -> Facts:
    """Write the float student, batch norm folded, for comparison. File: the model."""
    deterministic(work.seed)
    module, architecture = load_module(work.inputs["student"].path, "student")
    example = example_input(architecture.input_shape)
    file = work.out / MODEL_FILE[work.config.format]
    tflite.export_float32(fold_batch_norm(module, example), example, file)
    return {"file": file.name, "bytes": file.stat().st_size}
