"""Does an exported file answer like the model that it was made from?"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekd.distill.config import Outputs
from edgekd.errors import GateError
from edgekd.runtimes import open_session
from edgekd.tasks.probabilities import logits_of, probabilities_of

if TYPE_CHECKING:
    import torch

    from edgekd.compress.program import QuantizedProgram


ALIKE: dict[Outputs, str] = {
    "classification": "the same largest output",
    "multi-label": "the same set of labels",
    "regression": "every number within one step or 1 % of its range",
}
"""What it takes for two answers to agree."""
OF_RANGE = 0.01
ROUNDING = 1e-3
"""Of a step: what the arithmetic of two runtimes may add to it."""
SMALLEST = 1e-7
STEEPEST: dict[Outputs, float] = {"classification": 1 / 2, "multi-label": 1 / 4}
"""By how much a probability changes at most where the logits change by one: the largest derivative of a softmax or a
sigmoid is 1/4, and two logits of a softmax may change."""


@dataclass(frozen=True)
class Parity:
    """agreement: share of samples with the same answer (see `ALIKE`), 0 to 1. max_abs_diff: largest difference of a
    real output. max_lsb: the same in steps of the output's scale; None for a float output. worst: the sample it is at.
    disagreeing: samples with another answer.
    """

    samples: int
    agreement: float
    max_abs_diff: float
    max_lsb: float | None
    worst: int
    disagreeing: tuple[int, ...]


def compare(expected: np.ndarray, found: np.ndarray, scale: float, outputs: Outputs = "classification") -> Parity:
    """Compare logits or numbers, float32, shape (N, outputs); `scale` is the output's scale, 0 for float.

    Raises GateError if an output is not finite, naming the sample.
    """
    return _compared(expected, found, scale, alike(expected, found, scale, outputs))


def compare_outputs(
    raw: np.ndarray, found: np.ndarray, step: float, output: str, outputs: Outputs = "classification"
) -> Parity:
    """Compare a model's own outputs with what a file says, which may be probabilities; `step` is that of the model's.

    Then max_lsb is the smallest difference of logits, in steps, that explains what was found: see `STEEPEST`.
    """
    if output != "probabilities":
        return compare(raw, found, step, outputs)
    expected = probabilities_of(raw, outputs)
    same = alike(raw, as_logits(found, outputs), step, outputs)
    return _compared(expected, found, step * STEEPEST[outputs], same)


def compare_answers(here: np.ndarray, there: np.ndarray, scale: float, output: str, outputs: Outputs) -> Parity:
    """Compare what one file says on two machines, logits, probabilities or numbers, as `compare` does."""
    read = [as_logits(one, outputs) if output == "probabilities" else one for one in (here, there)]
    return _compared(here, there, scale, alike(read[0], read[1], scale, outputs))


def alike(expected: np.ndarray, found: np.ndarray, scale: float, outputs: Outputs) -> np.ndarray:
    """Which samples have the same answer, a mask, (N,); both are logits or numbers, (N, outputs)."""
    if outputs == "classification":
        same: np.ndarray = expected.argmax(axis=1) == found.argmax(axis=1)
    elif outputs == "multi-label":
        same = ((expected > 0) == (found > 0)).all(axis=1)
    else:
        numbers = expected.astype(np.float64)
        allowed = np.maximum(np.ptp(numbers, axis=0) * OF_RANGE, scale * (1 + ROUNDING))
        same = (np.abs(numbers - found) <= allowed).all(axis=1)
    return same


def as_logits(found: np.ndarray, outputs: Outputs) -> np.ndarray:
    """Logits that give these probabilities; those of 0 and 1 are taken for the nearest that are finite."""
    return logits_of(found, outputs, SMALLEST)


def _compared(expected: np.ndarray, found: np.ndarray, scale: float, same: np.ndarray) -> Parity:
    for name, outputs in (("trained model", expected), ("exported file", found)):
        wrong = np.flatnonzero(~np.isfinite(outputs).all(axis=1))
        if wrong.size:
            raise GateError(f"parity: the {name} answers NaN or infinity for test sample {int(wrong[0])}")
    difference = np.abs(expected.astype(np.float64) - found.astype(np.float64)).max(axis=1)
    differing = np.flatnonzero(~same)
    largest = float(difference.max())
    return Parity(
        samples=len(expected),
        agreement=1.0 - len(differing) / len(expected),
        max_abs_diff=largest,
        max_lsb=round(largest / scale, 3) if scale else None,
        worst=int(difference.argmax()),
        disagreeing=tuple(int(sample) for sample in differing),
    )


def parity(
    file: Path, program: "QuantizedProgram", inputs: "torch.Tensor", outputs: Outputs = "classification"
) -> Parity:
    """Run real inputs, float32, shape (N, ...), through the file in its runtime and through the trained torch model.

    The torch model is the quantization-aware one itself, not a frozen copy of it.
    Raises UsageError or DeviceError if the file cannot be run.
    """
    from edgekd.models.evaluate import predict

    session = open_session(file)
    found = session.decode(session.run(session.encode(inputs.numpy())))
    return compare(predict(program.model, inputs), found, program.output_scale, outputs)
