"""A step of a plan: one transformation with a contract."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from edgekd.artifact import Artifact, Facts, State

Config = TypeVar("Config")


class Progress(Protocol):
    """How a step tells how far it is: `done` of `total`, and a few words."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def silent(done: int, total: int, note: str = "") -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Work(Generic[Config]):
    """What the function behind a step is given. It writes its files into `out` and returns its facts.

    scratch: a folder that lasts from a build that was killed or failed to the next one that wants the same result, and
    is removed with it; the same in all processes of a launch.
    """

    config: Config
    inputs: Mapping[str, Artifact]
    out: Path
    seed: int
    progress: Progress = silent
    scratch: Path | None = None


@dataclass(frozen=True)
class Step:
    """One node of the plan.

    function: `module:name` of a function Work -> Facts, imported only when the step runs.
    config: frozen dataclass with all that the result depends on. A Path in it counts by its content.
    inputs: role -> name of the step that makes it; requires: role -> the state it must be in.
    ensures: the state of the result.
    packages: distributions whose version the result depends on; they must be installed.
    modules: user modules whose source the result depends on.
    distributed: does it run in all processes of a launch? Then what it writes into `out` counts in the main one only.
    """

    name: str
    function: str
    config: Any
    ensures: State
    inputs: Mapping[str, str] = field(default_factory=dict)
    requires: Mapping[str, State] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    seed: int = 0
    distributed: bool = False

    def load(self) -> Callable[[Work[Any]], Facts]:
        module, _, name = self.function.partition(":")
        function: Callable[[Work[Any]], Facts] = getattr(importlib.import_module(module), name)
        return function
