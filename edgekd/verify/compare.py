"""Does an exported file answer like the model that it was made from?"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekd.errors import GateError
from edgekd.runtimes import open_session

if TYPE_CHECKING:
    import torch

    from edgekd.compress.program import QuantizedProgram


@dataclass(frozen=True)
class Parity:
    """agreement: share of samples with the same largest output, 0 to 1. max_abs_diff: largest difference of a real
    output. max_lsb: the same in steps of the output's scale; None for a float output. worst: the sample it is at.
    disagreeing: samples whose largest output differs.
    """

    samples: int
    agreement: float
    max_abs_diff: float
    max_lsb: float | None
    worst: int
    disagreeing: tuple[int, ...]


def compare(expected: np.ndarray, found: np.ndarray, scale: float) -> Parity:
    """Compare real outputs, float32, shape (N, classes); `scale` is the output's scale, 0 for float.

    Raises GateError if an output is not finite, naming the sample.
    """
    for name, outputs in (("trained model", expected), ("exported file", found)):
        wrong = np.flatnonzero(~np.isfinite(outputs).all(axis=1))
        if wrong.size:
            raise GateError(f"parity: the {name} answers NaN or infinity for test sample {int(wrong[0])}")
    difference = np.abs(expected.astype(np.float64) - found.astype(np.float64)).max(axis=1)
    differing = np.flatnonzero(expected.argmax(axis=1) != found.argmax(axis=1))
    largest = float(difference.max())
    return Parity(
        samples=len(expected),
        agreement=1.0 - len(differing) / len(expected),
        max_abs_diff=largest,
        max_lsb=round(largest / scale, 3) if scale else None,
        worst=int(difference.argmax()),
        disagreeing=tuple(int(sample) for sample in differing),
    )


def compare_outputs(logits: np.ndarray, found: np.ndarray, step: float, output: str) -> Parity:
    """Compare a model's logits with what a file says, which may be probabilities; `step` is that of the logits.

    Logits that are k steps off change a probability by at most k/2 of them: the largest derivative of a softmax is 1/4,
    and two of them meet. Then max_lsb is the smallest difference of logits that explains what was found.
    """
    if output == "logits":
        return compare(logits, found, step)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return compare(powers / powers.sum(axis=1, keepdims=True), found, step / 2)


def parity(file: Path, program: "QuantizedProgram", inputs: "torch.Tensor") -> Parity:
    """Run real inputs, float32, shape (N, ...), through the file in its runtime and through the trained torch model.

    The torch model is the quantization-aware one itself, not a frozen copy of it.
    Raises UsageError or DeviceError if the file cannot be run.
    """
    from edgekd.models.evaluate import predict

    session = open_session(file)
    outputs = session.run(session.encode(inputs.numpy()))
    return compare(predict(program.model, inputs), session.decode(outputs), program.output_scale)
