"""What the figures of a benchmark rest on."""

import platform
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

import torch

from edgekd.runners import host


def surroundings(packages: Iterable[str], before: dict[str, Any]) -> dict[str, Any]:
    """Versions, this machine, and its state now and before (`host.state`), as JSON."""
    return {**_setting(packages), "state": {"before": before, "after": host.state()}}


def circumstances(packages: Iterable[str]) -> dict[str, Any]:
    """The same of figures that no time is among: torch's threads, and the state now."""
    return {**_setting(packages), "threads": torch.get_num_threads(), "state": host.state()}


def _setting(packages: Iterable[str]) -> dict[str, Any]:
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "machine": {"system": platform.platform(), "processor": platform.machine(), **host.describe()},
    }
