"""The folder of what is fetched or built for devices: each entry whole or absent, made once, whoever is killed."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import platformdirs
from filelock import FileLock

from edgekd.errors import UsageError


def cache_dir() -> Path:
    """`$EDGEKD_CACHE` where it is set, else the user's cache folder."""
    named = os.environ.get("EDGEKD_CACHE")
    return Path(named).absolute() if named else platformdirs.user_cache_path("edgekd")


def made(path: Path, make: Callable[[Path], None]) -> Path:
    """Return `path`; where it is absent, `make` first fills a place beside it, which is then renamed.

    `make` gets a path where nothing is, and makes a file or a folder there. A second process that wants the same entry
    waits for the first. If `make` raises, nothing is kept. Raises UsageError where the folder cannot be written.
    """
    if path.exists():
        return path
    aside = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if path.exists():
                return path
            _remove(aside)
            try:
                make(aside)
                aside.rename(path)
            finally:
                _remove(aside)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"{path}: cannot be written ({reason}); set EDGEKD_CACHE to a folder with room") from error
    return path


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
