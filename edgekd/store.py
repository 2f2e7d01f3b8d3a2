"""The content-addressed home of artifacts: whole or absent, whoever is killed and however many build at once."""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from edgekd.artifact import (
    Artifact,
    Facts,
    Provenance,
    State,
    describe_files,
    read_manifest,
    write_manifest,
)


@dataclass(frozen=True)
class Order:
    """A result wanted from the store: its key, and what is known about it before it is made."""

    key: str
    step: str
    state: State
    provenance: Provenance


class Store:
    """A folder of artifacts by key. Results are written aside and renamed, one maker per key at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, key: str) -> Artifact | None:
        """The artifact of this key, or None unless it is there in full."""
        return read_manifest(self._home(key))

    def obtain(self, order: Order, make: Callable[[Path], Facts]) -> tuple[Artifact, bool]:
        """Return the artifact and whether it was there already; if not, `make` fills a fresh folder first.

        A second process that wants the same key waits for the first. If `make` raises, nothing is kept but what is in
        the key's scratch folder, which goes when the artifact is whole.
        """
        if found := self.get(order.key):
            return found, True
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{order.key}.lock"):
            if found := self.get(order.key):
                return found, True
            aside = self.root / "partial" / order.key
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            try:
                self._fill(order, aside, make)
                home = self._home(order.key)
                home.parent.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(home, ignore_errors=True)
                aside.rename(home)
                shutil.rmtree(self._scratch(order.key), ignore_errors=True)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        made = self.get(order.key)
        assert made is not None
        return made, False

    def scratch(self, key: str) -> Path:
        """A folder for whoever makes this key, and for whoever tries again where that one was killed or failed."""
        folder = self._scratch(key)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _scratch(self, key: str) -> Path:
        return self.root / "scratch" / key

    def _fill(self, order: Order, aside: Path, make: Callable[[Path], Facts]) -> None:
        started = time.perf_counter()
        facts = make(aside)
        provenance = Provenance(
            **{
                **vars(order.provenance),
                "seconds": round(time.perf_counter() - started, 3),
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )
        artifact = Artifact(order.key, order.step, aside, order.state, describe_files(aside), facts, provenance)
        write_manifest(artifact)
        for file in aside.rglob("*"):
            if file.is_file():
                _flush(file)

    def _home(self, key: str) -> Path:
        return self.root / "artifacts" / key[:2] / key


def _flush(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
