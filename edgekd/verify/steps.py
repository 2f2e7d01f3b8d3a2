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
from edgekd.distill.config import Outputs
from edgekd.errors import GateError
from edgekd.export.card import output_of
from edgekd.export.steps import model_file
from edgekd.models.build import example_input, load_module
from edgekd.models.evaluate import load_array, points, predict, quality_of, teacher_outputs
from edgekd.readers import read_graph
from edgekd.readers.graph import FileGraph, bytes_moved, stored_weights
from edgekd.recipe import Budgets
from edgekd.runtimes import open_session
from edgekd.runtimes.session import Session, layout
from edgekd.seeding import deterministic
from edgekd.step import Progress, Work
from edgekd.step_configs import VerifyConfig
from edgekd.target import ParityLimits
from edgekd.tasks.dataset import GOLDEN_SAMPLES, raw_pixels
from edgekd.tasks.metrics import SCORES
from edgekd.verify.bisect import first_departure
from edgekd.verify.compare import ALIKE, Parity, as_logits, compare_outputs
from edgekd.verify.coverage import asked_transposes, check_coverage, coverage
from edgekd.verify.readback import Readback, read_back

TWO_SAMPLES = 2
FINEST = 1_000_000
"""Steps of a score that does not count samples."""
WORDS: dict[Outputs, str] = {"classification": "class ", "multi-label": "labels ", "regression": ""}
FLOAT_SAMPLES = 100
FLOAT_TOLERANCE = 1e-2
"""Largest difference of an output of the float32 file, as a share of the largest output."""


def verify_export(work: Work[VerifyConfig]) -> Facts:
    """Read back the scales, compare outputs, measure how good they are, count delegated nodes, check budgets.

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
    check_coverage(config.coverage, found, len(source.floats))

    test, labels = load_array(data.file("test_inputs.npy")), np.load(data.file("test_labels.npy"))
    pixels = raw_pixels(data.facts["preprocessing"])
    inputs = session.encode(test.numpy(), pixels)
    outputs = _run(session, inputs, work.progress)
    reference = predict(source.model, test)
    kind, answers = data.facts["outputs"], session.decode(outputs)
    form = output_of(config.output, kind)
    parity = compare_outputs(reference, answers, source.step, form, kind)
    limits = _limits(config.parity, reference, kind)
    if form == "probabilities":
        answers = as_logits(answers, kind)
    if problem := _parity_problem(limits, parity, reference, answers, kind):
        sample = parity.disagreeing[0] if parity.disagreeing else parity.worst
        where = source.locate(session, graph, readback, test[sample : sample + 1], inputs[sample])
        raise GateError(f"parity: {problem}{where}")

    _check_float(work, test[:FLOAT_SAMPLES], pixels)
    smaller = work.inputs["compressed"]
    found_out = {
        "teacher": _teacher_quality(work),
        "student_float": work.inputs["student"].facts,
        **({} if smaller.key == work.inputs["student"].key else {"compressed": smaller.facts}),
        "quantized_program": work.inputs["program"].facts,
        "exported": quality_of(answers, data, work.inputs.get("outputs")),
    }
    accuracy = {name: facts["accuracy"] for name, facts in found_out.items()}
    _check_budgets(config.budgets, accuracy, len(labels), kind)
    _check_size(config.budgets, work.inputs["export"].facts["bytes"])
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
        "metric": SCORES[kind],
        "metrics": {name: facts.get("metrics") for name, facts in found_out.items()},
        "parity": {
            **{name: value for name, value in dataclasses.asdict(parity).items() if name != "disagreeing"},
            "agrees": ALIKE[kind],
        },
        "limits": dataclasses.asdict(limits),
        "quantizers": {"learned": readback.learned, "exact": readback.exact, "float_layers": list(source.floats)},
        "weights": {"bits": min((entry.bits for entry in source.table), default=None), **stored_weights(graph)},
        "ops": found.document(),
        "bytes_moved": bytes_moved(graph),
        "macs": smaller.facts["macs"],
        "input": {**dataclasses.asdict(session.inputs[0]), "layout": layout(session)},
        "output": {**dataclasses.asdict(session.outputs[0]), "form": form},
    }


def _teacher_quality(work: Work[VerifyConfig]) -> Facts:
    """From its cached outputs, where there are some for the test split, else as the teacher's own step found it."""
    cache = work.inputs.get("outputs")
    outputs = None if cache is None else teacher_outputs(cache)
    return work.inputs["teacher"].facts if outputs is None else quality_of(outputs, work.inputs["data"])


def _limits(limits: ParityLimits, reference: np.ndarray, kind: Outputs) -> ParityLimits:
    """For a regression the largest difference of a float output is a share of its largest output: it has a unit."""
    if kind != "regression" or limits.max_abs_diff is None:
        return limits
    largest = max(float(np.abs(reference).max()), float(np.finfo(np.float32).tiny))
    return dataclasses.replace(limits, max_abs_diff=limits.max_abs_diff * largest)


def _check_float(work: Work[VerifyConfig], inputs: torch.Tensor, pixels: tuple[float, float] | None) -> None:
    """The float32 file is published for comparison: it must answer like the float student."""
    student, _ = load_module(work.inputs["compressed"].path, "student")
    session = open_session(model_file(work.inputs["float"]), runtime=work.config.runtime)
    found = session.decode(session.run(session.encode(inputs.numpy(), pixels)))
    expected = predict(student, inputs)
    kind = work.inputs["data"].facts["outputs"]
    parity = compare_outputs(expected, found, 0.0, output_of(work.config.output, kind), kind)
    limit = FLOAT_TOLERANCE * max(0.0 if kind == "regression" else 1.0, float(np.abs(expected).max()))
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
    output (0 for a float one), how many transposes it asks for itself, and which layers of an int8 one are float.
    """

    model: nn.Module
    table: tuple[Quantizer, ...]
    step: float
    transposes: int
    program: QuantizedProgram | None = None
    floats: tuple[str, ...] = ()

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
        model, architecture = load_module(work.inputs["compressed"].path, "student")
        return _Source(model, (), 0.0, asked_transposes(model, example_input(architecture)))
    program = restore_program(work.inputs["program"])
    table = kept(program.table, work.config.precision)
    transposes = asked_transposes(program.frozen(stored=False), program.example)
    if work.config.precision == "int8":
        return _Source(program.model, table, program.output_scale, transposes, program, program.float_layers)
    return _Source(program.weights_only(), table, 0.0, transposes)


def _check_readback(readback: Readback) -> None:
    if readback.problems:
        more = f" (and {len(readback.problems) - 1} more)" if len(readback.problems) > 1 else ""
        raise GateError(f"scales: {readback.problems[0]}{more}; the file does not hold what was learned")


def _parity_problem(
    limits: ParityLimits, parity: Parity, reference: np.ndarray, outputs: np.ndarray, kind: Outputs
) -> str:
    """What breaks a limit, in words; empty if nothing does."""
    if parity.samples < limits.samples:
        return f"{parity.samples} test samples; the target asks for {limits.samples}"
    if parity.agreement < limits.agreement:
        first = parity.disagreeing[0]
        return (
            f"the file agrees on {parity.agreement:.4f} of {parity.samples} samples, below {limits.agreement}; "
            f"first at test sample {first}: {WORDS[kind]}{_answer(reference[first], kind)} became "
            f"{_answer(outputs[first], kind)}"
        )
    if parity.max_lsb is not None and limits.max_lsb is not None and parity.max_lsb > limits.max_lsb:
        return f"an output of test sample {parity.worst} is {parity.max_lsb:g} steps off, above {limits.max_lsb:g}"
    if limits.max_abs_diff is not None and parity.max_abs_diff > limits.max_abs_diff:
        return f"an output of test sample {parity.worst} is {parity.max_abs_diff:g} off, above {limits.max_abs_diff:g}"
    return ""


def _answer(outputs: np.ndarray, kind: Outputs) -> str:
    """What one sample's outputs say."""
    if kind == "classification":
        return str(outputs.argmax())
    if kind == "multi-label":
        return str(np.flatnonzero(outputs > 0).tolist())
    return str([float(f"{number:.5g}") for number in outputs])


def _check_budgets(budgets: Budgets, accuracy: dict[str, float], samples: int, kind: Outputs) -> None:
    """Points are hundredths of the task's score. Accuracies are compared as counts of samples: a share of few samples
    has no finer steps.
    """
    unit, least = (samples, TWO_SAMPLES) if kind == "classification" else (FINEST, 0)
    teacher, student, exported = (round(accuracy[name] * unit) for name in ("teacher", "student_float", "exported"))
    of = f"points of {SCORES[kind]}"
    if budgets.below_teacher is not None and teacher - student > math.floor(budgets.below_teacher * unit / 100):
        raise GateError(
            f"budget: the student has {points(student / unit)} {of}, more than "
            f"{budgets.below_teacher:g} below its teacher's {points(teacher / unit)}"
        )
    if student - exported > max(math.floor(budgets.below_student * unit / 100), least):
        raise GateError(
            f"budget: the exported file has {points(exported / unit)} {of}, more than "
            f"{budgets.below_student:g} below the float student's {points(student / unit)}"
        )


def _check_size(budgets: Budgets, size: int) -> None:
    if budgets.bytes is not None and size > budgets.bytes:
        raise GateError(f"budget: the file has {size} bytes, more than {budgets.bytes}")
