"""A build's progress on the terminal, on stderr."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from edgekd.step import Progress as StepProgress


class TerminalWatcher:
    """Shows the running step as a bar and each finished one as a line."""

    def __init__(self, console: Console, bars: Progress, steps: int) -> None:
        self._console, self._bars, self._steps, self._done = console, bars, steps, 0

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False)

    @contextmanager
    def step(self, name: str) -> Iterator[StepProgress]:
        task = self._bars.add_task(name, total=None, note="")

        def update(done: int, total: int, note: str = "") -> None:
            self._bars.update(task, completed=done, total=total, note=note)

        try:
            yield update
        finally:
            self._bars.remove_task(task)

    def done(self, name: str, cached: bool, seconds: float) -> None:
        self._done += 1
        self.say(f"[{self._done}/{self._steps}] {name}: {'cached' if cached else f'{seconds:.1f} s'}")


@contextmanager
def watching(steps: int) -> Iterator[TerminalWatcher]:
    """A watcher on its own handle of stderr, so that a library that is kept quiet does not take the bar with it."""
    with os.fdopen(os.dup(sys.stderr.fileno()), "w") as stream:
        console = Console(file=stream)
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
            yield TerminalWatcher(console, bars, steps)
