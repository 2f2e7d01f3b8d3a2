"""Several teachers as one."""

from collections.abc import Sequence

import numpy as np

from edgekd.distill.config import Outputs
from edgekd.distill.teacher_config import Written
from edgekd.distill.teachers.answers import SMALLEST, Answer
from edgekd.distill.teachers.samples import Batch
from edgekd.tasks.probabilities import logits_of, probabilities_of


def averaged(members: Sequence[Answer], weights: Sequence[float], mean: Written, outputs: Outputs) -> Answer:
    """The weighted mean of their probabilities, as logits, or of their logits; of a regression, of their numbers."""
    shares = np.asarray(weights or [1.0] * len(members))
    shares = shares / shares.sum()

    def answer(batch: Batch) -> np.ndarray:
        logits = [member(batch).astype(np.float64) for member in members]
        if mean == "logits" or outputs == "regression":
            return np.tensordot(shares, logits, 1).astype(np.float32)
        together = np.tensordot(shares, [probabilities_of(one, outputs) for one in logits], 1)
        return logits_of(together, outputs, SMALLEST).astype(np.float32)

    return answer
