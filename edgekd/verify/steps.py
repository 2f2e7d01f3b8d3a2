"""The step that holds an exported file against its source; nothing is published without it."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgekd.artifact import Artifact, Facts
from edgekd.compress.quantizers import output_scale, read_table
from edgekd.compress.steps import restore_program
from edgekd.errors import GateError
from edgekd.models.evaluate import correct_share, load_array, points, predict
from edgekd.recipe import Budgets
from edgekd.runtimes import open_session
from edgekd.runtimes.session import Session
from edgekd.seeding import deterministic
from edgekd.step import Progress, Work
from edgekd.step_configs import VerifyConfig
from edgekd.target import CoverageLimits, ParityLimits
from edgekd.tasks.dataset import GOLDEN_SAMPLES
from edgekd.verify.compare import Parity, compare
from edgekd.verify.graph import bytes_moved, layout_changes
from edgekd.verify.read import read_graph
from edgekd.verify.readback import Readback, read_back

TWO_SAMPLES = 2


def verify_export(work: Work[VerifyConfig]) -> Facts:
    """Read back the scales, compare outputs, measure accuracy, count delegated nodes, check budgets.

    The whole test split runs through the exported file in its real runtime, one sample at a time. File: `golden.npz`
    with the first test samples raw, as model input, as model output, and their labels.

    Raises GateError at the first check that fails, naming the layer, node or sample.
    """
    deterministic(work.seed)
    config, data = work.config, work.inputs["data"]
    file = work.inputs["export"].file(work.inputs["export"].facts["file"])
    graph = read_graph(file)
    table = read_table(json.loads(work.inputs["program"].file("table.json").read_text()))
    readback = read_back(table, graph)
    _check_readback(readback)

    session = open_session(file)
    placement, transposes = session.placement(), layout_changes(graph)
    _check_coverage(config.coverage, placement.undelegated, transposes)

    test, labels = load_array(data.file("test_inputs.npy")), np.load(data.file("test_labels.npy"))
    inputs = session.encode(test.numpy())
    outputs = _run(session, inputs, work.progress)
    reference = predict(restore_program(work.inputs["program"]).model, test)
    parity = compare(reference, session.decode(outputs), output_scale(table))
    _check_parity(config.parity, parity, reference, outputs)

    float_session = open_session(_model_file(work.inputs["float"]))
    float_outputs = float_session.run(float_session.encode(test.numpy()))
    accuracy = {
        "teacher": work.inputs["teacher"].facts["accuracy"],
        "student_float": work.inputs["student"].facts["accuracy"],
        "quantized_program": work.inputs["program"].facts["accuracy"],
        "exported_float32": correct_share(float_outputs, labels),
        "exported": correct_share(outputs, labels),
    }
    _check_budgets(config.budgets, accuracy, len(labels), work.inputs["export"].facts["bytes"])
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
        "ops": {
            "total": placement.total,
            "delegated": placement.total - len(placement.undelegated),
            "delegates": placement.delegates,
            "undelegated": list(placement.undelegated),
            "stray_transposes": len(transposes),
        },
        "bytes_moved": bytes_moved(graph),
        "input": {**dataclasses.asdict(session.inputs[0]), "layout": "NHWC" if session.channels_last else "NCHW"},
        "output": dataclasses.asdict(session.outputs[0]),
    }


def _run(session: Session, inputs: np.ndarray, progress: Progress, block: int = 64) -> np.ndarray:
    results = []
    for start in range(0, len(inputs), block):
        results.append(session.run(inputs[start : start + block]))
        progress(min(start + block, len(inputs)), len(inputs))
    return np.concatenate(results)


def _model_file(artifact: Artifact) -> Path:
    return artifact.file(artifact.facts["file"])


def _check_readback(readback: Readback) -> None:
    if readback.problems:
        more = f" (and {len(readback.problems) - 1} more)" if len(readback.problems) > 1 else ""
        raise GateError(f"scales: {readback.problems[0]}{more}; the file does not hold what was learned")


def _check_coverage(limits: CoverageLimits, missing: Sequence[str], transposes: Sequence[str]) -> None:
    if len(missing) > limits.undelegated:
        raise GateError(f"coverage: {len(missing)} nodes are not delegated ({', '.join(missing[:5])})")
    if len(transposes) > limits.layout_changes:
        raise GateError(f"coverage: {len(transposes)} layout changes in the file ({', '.join(transposes[:5])})")


def _check_parity(limits: ParityLimits, parity: Parity, reference: np.ndarray, outputs: np.ndarray) -> None:
    if parity.samples < limits.samples:
        raise GateError(f"parity: {parity.samples} test samples; the target asks for {limits.samples}")
    if parity.agreement < limits.agreement:
        first = parity.disagreeing[0]
        raise GateError(
            f"parity: the file agrees on {parity.agreement:.4f} of {parity.samples} samples, below {limits.agreement}; "
            f"first at test sample {first}: class {reference[first].argmax()} became {outputs[first].argmax()}"
        )
    if parity.max_lsb is not None and parity.max_lsb > limits.max_lsb:
        raise GateError(
            f"parity: an output of test sample {parity.worst} is {parity.max_lsb:g} steps off, above {limits.max_lsb:g}"
        )


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
