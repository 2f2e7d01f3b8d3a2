from dataclasses import dataclass

import numpy as np
import pytest


@dataclass(frozen=True)
class UpperEnd:
    """Draws the upper end of every range, and noise of one standard deviation."""

    def uniform(self, low: float, high: float, size: int | None = None) -> float | np.ndarray:
        return high if size is None else np.full(size, high)

    def normal(self, mean: float, deviation: float, size: int | tuple[int, ...]) -> np.ndarray:
        return np.full(size, mean + deviation)


@pytest.fixture
def upper_end() -> UpperEnd:
    return UpperEnd()
