"""Several teachers as one."""

from collections.abc import Sequence

import numpy as np

from edgekd.distill.config import Outputs
from edgekd.distill.teacher_config import Written
from edgekd.distill.teachers.answers import Answer, log_probabilities
from edgekd.distill.teachers.samples import Batch


def averaged(members: Sequence[Answer], weights: Sequence[float], mean: Written, outputs: Outputs) -> Answer:
    """The weighted mean of their probabilities, as logits, or of their logits; of a regression, of their numbers."""
    shares = np.asarray(weights or [1.0] * len(members))
    shares = shares / shares.sum()
    exclusive = outputs == "classification"

    def answer(batch: Batch) -> np.ndarray:
        logits = [member(batch).astype(np.float64) for member in members]
        if mean == "logits" or outputs == "regression":
            return np.tensordot(shares, logits, 1).astype(np.float32)
        return log_probabilities(np.tensordot(shares, [_probabilities(one, exclusive) for one in logits], 1), exclusive)

    return answer


def _probabilities(logits: np.ndarray, exclusive: bool) -> np.ndarray:
    if not exclusive:
        return np.asarray(1 / (1 + np.exp(-logits)))
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))
