"""When a loop may start, a bare one in Python, and what it feeds."""

import statistics
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np


def wait() -> None:
    """Say that all is imported, and wait for the word to go on."""
    print("ready", flush=True)
    sys.stdin.readline()


def tell_median(run: Callable[[], object], runs: int) -> None:
    """Half as many runs to warm up, and then each by the clock."""
    clock = time.perf_counter_ns
    for _ in range(runs // 2):
        run()
    taken = []
    for _ in range(runs):
        start = clock()
        run()
        taken.append(clock() - start)
    print(statistics.median(taken))


def noise(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    random = np.random.default_rng(0)
    return (random.integers(0, 100, shape) if dtype.kind in "iu" else random.normal(size=shape)).astype(dtype)
