"""How long to measure, after MLPerf Mobile's single stream and LiteRT's benchmark tool: batch 1, one thread.

`brief` is for the models that an exported one is compared with in a report; it is shorter than what MLPerf asks for.
"""

from dataclasses import dataclass

WARMUP_RUNS = 1
WARMUP_SECONDS = 0.5


@dataclass(frozen=True)
class Protocol:
    """A measurement goes on until it has both this many runs and this many seconds, in each of `processes`."""

    name: str
    runs: int
    seconds: float
    processes: int = 1


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("brief", runs=64, seconds=2.0),
        Protocol("rapid", runs=64, seconds=6.0),
        Protocol("quick", runs=128, seconds=10.0),
        Protocol("full", runs=1024, seconds=60.0, processes=3),
    )
}
