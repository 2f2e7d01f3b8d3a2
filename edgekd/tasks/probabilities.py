"""Between logits and probabilities, for outputs that exclude each other and for those that do not."""

import numpy as np

from edgekd.distill.config import Outputs


def probabilities_of(logits: np.ndarray, outputs: Outputs) -> np.ndarray:
    """By softmax over (N, outputs), in the type of the logits; for multi-label by sigmoid, float64."""
    if outputs == "multi-label":
        chances: np.ndarray = np.exp(-np.logaddexp(0.0, -logits.astype(np.float64)))
        return chances
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return shares


def logits_of(probabilities: np.ndarray, outputs: Outputs, smallest: float) -> np.ndarray:
    """Logits that give these probabilities, float64. One below `smallest` counts as that; for multi-label, one above
    1 less that likewise.
    """
    chances: np.ndarray = np.maximum(probabilities.astype(np.float64), smallest)
    if outputs == "multi-label":
        chances = np.minimum(chances, 1 - smallest)
        chances = chances / (1 - chances)
    return np.asarray(np.log(chances))
