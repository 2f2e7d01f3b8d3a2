"""How near a model comes to what its device could do at best: computing, or moving bytes, whichever takes longer."""

from dataclasses import dataclass
from typing import Literal

from edgekd.bench.calibration import Hardware

OPERATIONS = 2
"""Operations of a multiply-accumulate."""


@dataclass(frozen=True)
class Roofline:
    """The bound of one inference. share: of the bound that was reached, bound_ms over the measured time.

    It is above one where the model was faster than the bound. rates: where the device's rates are from.
    """

    bound_ms: float
    compute_ms: float
    memory_ms: float
    share: float
    binds: Literal["compute", "memory bandwidth"]
    rates: str
    sentence: str


@dataclass(frozen=True)
class NoRoofline:
    """No bound can be told, and why."""

    why: str


def roofline(
    macs: int, bytes_moved: int, precision: str, p50_ms: float, hardware: Hardware, threads: int = 1
) -> Roofline | NoRoofline:
    """The bound of a model and the share of it that was reached.

    macs: multiply-accumulates of one inference; bytes_moved: as `edgekd.readers.graph.bytes_moved` counts them.
    precision: as a target says it; all but `int8` compute in float32. p50_ms: what was measured, with `threads`.
    """
    key = "int8_ops_per_s" if precision == "int8" else "float32_flops_per_s"
    rate, bandwidth = getattr(hardware, key), hardware.memory_bandwidth_bytes_per_s
    missing = [name for name, value in ((key, rate), ("memory_bandwidth_bytes_per_s", bandwidth)) if value is None]
    if rate is None or bandwidth is None:
        return NoRoofline(f"{' and '.join(missing)} of this device: not known ({hardware.source})")
    if macs <= 0 or bytes_moved <= 0 or p50_ms <= 0:
        return NoRoofline("the model's operations, its bytes or its time are not known")
    compute = 1e3 * OPERATIONS * macs / (rate * threads)
    memory = 1e3 * bytes_moved / bandwidth
    binds: Literal["compute", "memory bandwidth"] = "compute" if compute >= memory else "memory bandwidth"
    bound = max(compute, memory)
    share = bound / p50_ms
    return Roofline(bound, compute, memory, share, binds, hardware.source, _sentence(share, binds, hardware.source))


def _sentence(share: float, binds: str, source: str) -> str:
    text = f"runs at {100 * share:.{0 if share >= 0.01 else 2}f} % of this device's bound; {binds} binds"
    if share <= 1:
        return f"{text} (rates: {source})"
    if binds == "compute":
        why = "the device computes faster than these rates say"
    else:
        why = "its data stay in caches, or the memory is faster than these rates say"
    return f"{text}; above 100 %: {why} (rates: {source})"
