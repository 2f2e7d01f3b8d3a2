"""The step that holds an exported file against its source; nothing is published without it."""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from edgekd.artifact import Facts
from edgekd.compress.program import QuantizedProgram
from edgekd.compress.quantizers import Quantizer, kept
from edgekd.compress.steps import restore_program
from edgekd.errors import GateError
from edgekd.export.steps import model_file
from edgekd.models.build import example_input, load_module
from edgekd.models.evaluate import correct_share, load_array, points, predict
from edgekd.readers import read_graph
from edgekd.readers.graph import FileGraph, bytes_moved
from edgekd.recipe import Budgets
from edgekd.runtimes import open_session
from edgekd.runtimes.session import Session, layout
from edgekd.seeding import deterministic
from edgekd.step import Progress, Work
from edgekd.step_configs import VerifyConfig
from edgekd.target import ParityLimits
from edgekd.tasks.dataset import GOLDEN_SAMPLES, raw_pixels
from edgekd.verify.bisect import first_departure
from edgekd.verify.compare import Parity, compare_outputs
from edgekd.verify.coverage import asked_transposes, check_coverage, coverage
from edgekd.verify.readback import Readback, read_back

TWO_SAMPLES = 2
FLOAT_SAMPLES = 100
FLOAT_TOLERANCE = 1e-2
"""Largest difference of an output of the float32 file, as a share of the largest output."""


def verify_export(work: Work[VerifyConfig]) -> Facts:
    """Read back the scales, compare outputs, measure accuracy, count delegated nodes, check budgets.

    The whole test split runs through the exported file in its real runtime, one sample at a time. Files:
    `golden.npz` with the first test samples raw, as model input, as model output, and their labels; `outputs.npy`, what
    the file answers to all of them.

    Raises GateError at the first check that fails, naming the layer, node or sample. Where outputs differ, it is the
    first layer at which a sample that differs departs, with both values.
    """
    deterministic(work.seed)
    config, data = work.config, work.inputs["data"]
    file = model_file(work.inputs["export"])
    graph = read_graph(file)
    source = _source(work)
    readback = read_back(source.table, graph)
    _check_readback(readback)

    session = open_session(file, runtime=config.runtime)
    found = coverage(graph, session.placement(), source.transposes)
    check_coverage(config.coverage, found)

    test, labels = load_array(data.file("test_inputs.npy")), np.load(data.file("test_labels.npy"))
    pixels = raw_pixels(data.facts["preprocessing"])
    inputs = session.encode(test.numpy(), pixels)
    outputs = _run(session, inputs, work.progress)
    reference = predict(source.model, test)
    parity = compare_outputs(reference, session.decode(outputs), source.step, config.output)
    if problem := _parity_problem(config.parity, parity, reference, outputs):
        sample = parity.disagreeing[0] if parity.disagreeing else parity.worst
        where = source.locate(session, graph, readback, test[sample : sample + 1], inputs[sample])
        raise GateError(f"parity: {problem}{where}")

    _check_float(work, test[:FLOAT_SAMPLES], pixels)
    accuracy = {
        "teacher": work.inputs["teacher"].facts["accuracy"],
        "student_float": work.inputs["student"].facts["accuracy"],
        "quantized_program": work.inputs["program"].facts["accuracy"],
        "exported": correct_share(outputs, labels),
    }
    _check_budgets(config.budgets, accuracy, len(labels), work.inputs["export"].facts["bytes"])
    np.save(work.out / "outputs.npy", outputs)
    golden = slice(0, GOLDEN_SAMPLES)
    np.savez(
        work.out / "golden.npz",
        raw=np.load(data.file("golden_raw.npy")),
        input=inputs[golden],
        output=outputs[golden],
        reference=reference[golden],
        label=labels[golden],
    )
    return {
        "accuracy": accuracy,
        "parity": {name: value for name, value in dataclasses.asdict(parity).items() if name != "disagreeing"},
        "quantizers": {"learned": readback.learned, "exact": readback.exact},
        "ops": found.document(),
        "bytes_moved": bytes_moved(graph),
        "macs": work.inputs["student"].facts["macs"],
        "input": {**dataclasses.asdict(session.inputs[0]), "layout": layout(session)},
        "output": dataclasses.asdict(session.outputs[0]),
    }


def _check_float(work: Work[VerifyConfig], inputs: torch.Tensor, pixels: tuple[float, float] | None) -> None:
    """The float32 file is published for comparison: it must answer like the float student."""
    student, _ = load_module(work.inputs["student"].path, "student")
    session = open_session(model_file(work.inputs["float"]), runtime=work.config.runtime)
    found = session.decode(session.run(session.encode(inputs.numpy(), pixels)))
    expected = predict(student, inputs)
    parity = compare_outputs(expected, found, 0.0, work.config.output)
    limit = FLOAT_TOLERANCE * max(1.0, float(np.abs(expected).max()))
    if parity.max_abs_diff > limit:
        raise GateError(
            f"parity: the float32 file is {parity.max_abs_diff:g} off the float student at test sample {parity.worst}, "
            f"above {limit:g}"
        )


def _run(session: Session, inputs: np.ndarray, progress: Progress, block: int = 64) -> np.ndarray:
    results = []
    for start in range(0, len(inputs), block):
        results.append(session.run(inputs[start : start + block]))
        progress(min(start + block, len(inputs)), len(inputs))
    return np.concatenate(results)


@dataclass(frozen=True)
class _Source:
    """What an exported file is held against: a torch model, its quantizers that the file must hold, the step of its
    output (0 for a float one), and how many transposes it asks for itself.
    """

    model: nn.Module
    table: tuple[Quantizer, ...]
    step: float
    transposes: int
    program: QuantizedProgram | None = None

    def locate(
        self, session: Session, graph: FileGraph, readback: Readback, inputs: torch.Tensor, encoded: np.ndarray
    ) -> str:
        """The layer at which a file departs for one sample, as the end of a sentence; empty where none is found."""
        if self.program is None:
            return ""
        departure = first_departure(session, graph, readback.places, self.program, inputs, encoded)
        return f"; {departure}" if departure else ""


def _source(work: Work[VerifyConfig]) -> _Source:
    """The quantization-aware model itself, the same with float activations, or the float student."""
    if work.config.precision in ("float32", "float16"):
        model, architecture = load_module(work.inputs["student"].path, "student")
        return _Source(model, (), 0.0, asked_transposes(model, example_input(architecture)))
    program = restore_program(work.inputs["program"])
    table = kept(program.table, work.config.precision)
    transposes = asked_transposes(program.frozen(stored=False), program.example)
    if work.config.precision == "int8":
        return _Source(program.model, table, program.output_scale, transposes, program)
    return _Source(program.weights_only(), table, 0.0, transposes)


def _check_readback(readback: Readback) -> None:
    if readback.problems:
        more = f" (and {len(readback.problems) - 1} more)" if len(readback.problems) > 1 else ""
        raise GateError(f"scales: {readback.problems[0]}{more}; the file does not hold what was learned")


def _parity_problem(limits: ParityLimits, parity: Parity, reference: np.ndarray, outputs: np.ndarray) -> str:
    """What breaks a limit, in words; empty if nothing does."""
    if parity.samples < limits.samples:
        return f"{parity.samples} test samples; the target asks for {limits.samples}"
    if parity.agreement < limits.agreement:
        first = parity.disagreeing[0]
        return (
            f"the file agrees on {parity.agreement:.4f} of {parity.samples} samples, below {limits.agreement}; "
            f"first at test sample {first}: class {reference[first].argmax()} became {outputs[first].argmax()}"
        )
    if parity.max_lsb is not None and limits.max_lsb is not None and parity.max_lsb > limits.max_lsb:
        return f"an output of test sample {parity.worst} is {parity.max_lsb:g} steps off, above {limits.max_lsb:g}"
    if limits.max_abs_diff is not None and parity.max_abs_diff > limits.max_abs_diff:
        return f"an output of test sample {parity.worst} is {parity.max_abs_diff:g} off, above {limits.max_abs_diff:g}"
    return ""


def _check_budgets(budgets: Budgets, accuracy: dict[str, float], samples: int, size: int) -> None:
    """Accuracy budgets are compared as counts of samples: a share of few samples has no finer steps."""
    teacher, student, exported = (round(accuracy[name] * samples) for name in ("teacher", "student_float", "exported"))
    if budgets.below_teacher is not None and teacher - student > math.floor(budgets.below_teacher * samples / 100):
        raise GateError(
            f"budget: the student has {points(student / samples)} points of accuracy, more than "
            f"{budgets.below_teacher:g} below its teacher's {points(teacher / samples)}"
        )
    if student - exported > max(math.floor(budgets.below_student * samples / 100), TWO_SAMPLES):
        raise GateError(
            f"budget: the exported file has {points(exported / samples)} points of accuracy, more than "
            f"{budgets.below_student:g} below the float student's {points(student / samples)}"
        )
    if budgets.bytes is not None and size > budgets.bytes:
        raise GateError(f"budget: the file has {size} bytes, more than {budgets.bytes}")
