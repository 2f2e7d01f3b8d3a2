"""A model that nothing is known about: what it is fed, and whether a device answers as this machine does."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekd.runtimes import open_session
from edgekd.runtimes.session import TensorSpec

SAMPLES = 16
ONE_STEP = 1.0
SMALLEST = float(np.finfo(np.float32).tiny)
RELATIVE = 1e-3
"""How far a float output may be off, as a share of the largest output: other processors add up in another order."""


@dataclass(frozen=True)
class Trial:
    """Inputs for a model, one array for each of its inputs, shape (N, ...), and what it answers to them here."""

    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Likeness:
    """How a device's outputs compare with this machine's. largest: difference, in integers' own steps or absolute.

    tolerance: one step for integers, else a share of the largest output. alike: no output is further off.
    """

    samples: int
    largest: float
    tolerance: float
    alike: bool


def trial(model: Path) -> Trial:
    """Run generated inputs through a model in its runtime on this machine. Raises UsageError or DeviceError."""
    session = open_session(model)
    inputs = generated_inputs(session.inputs)
    answers = []
    for sample in zip(*inputs, strict=True):
        session.set_inputs([one[None] for one in sample])
        session.invoke()
        answers.append([np.array(one[0]) for one in session.get_outputs()])
    return Trial(tuple(inputs), tuple(np.stack(one) for one in zip(*answers, strict=True)))


def generated_inputs(specs: Sequence[TensorSpec], samples: int = SAMPLES) -> list[np.ndarray]:
    """Seeded noise, shape (samples, ...), and zeros for what may be an index."""
    random = np.random.default_rng(0)

    def one(spec: TensorSpec) -> np.ndarray:
        shape = (samples, *spec.shape[1:])
        if spec.dtype in ("int8", "uint8"):
            limits = np.iinfo(spec.dtype)
            return random.integers(limits.min, limits.max, shape, dtype=spec.dtype, endpoint=True)
        if spec.dtype.startswith("float"):
            return random.normal(size=shape).astype(spec.dtype)
        return np.zeros(shape, dtype=spec.dtype)

    return [one(spec) for spec in specs]


def likeness(here: Sequence[np.ndarray], there: Sequence[np.ndarray]) -> Likeness:
    """Compare outputs, one array for each, the same shapes; the one that is furthest off in its tolerance counts."""
    found = [_likeness(*pair) for pair in zip(here, there, strict=True)]
    return max(found, key=lambda one: one.largest / one.tolerance)


def _likeness(here: np.ndarray, there: np.ndarray) -> Likeness:
    difference = np.abs(here.astype(np.float64) - there.astype(np.float64))
    largest = float(difference.max()) if np.isfinite(difference).all() else np.inf
    integers = np.issubdtype(here.dtype, np.integer)
    tolerance = ONE_STEP if integers else RELATIVE * max(float(np.abs(here).max()), SMALLEST)
    return Likeness(len(here), largest, tolerance, largest <= tolerance)
