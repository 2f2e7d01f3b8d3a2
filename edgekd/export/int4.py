"""Numbers of 4 bits, two a byte, the first in its lower half: TFLite, ONNX and OpenVINO all store them so."""

import numpy as np

LOW, HIGH = -8, 7


def fits(numbers: np.ndarray) -> bool:
    """Is every one of these int8 numbers one of 4 bits?"""
    return bool(numbers.min() >= LOW and numbers.max() <= HIGH)


def packed(numbers: np.ndarray) -> np.ndarray:
    """Such numbers as uint8, in their order; an odd one out has a zero beside it."""
    halves = np.pad(numbers.ravel().view(np.uint8) & 15, (0, numbers.size % 2))
    content: np.ndarray = halves[::2] | halves[1::2] << 4
    return content
