"""What the figures of a benchmark rest on."""

import platform
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from edgekd.runners import host


def surroundings(packages: Iterable[str], before: dict[str, Any]) -> dict[str, Any]:
    """Versions, this machine, and its state now and before (`host.state`), as JSON."""
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "machine": {"system": platform.platform(), "processor": platform.machine(), **host.describe()},
        "state": {"before": before, "after": host.state()},
    }
