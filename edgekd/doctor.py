"""What is installed, what is missing for which target, and the command that mends it."""

import platform
import re
from importlib.metadata import PackageNotFoundError, requires
from typing import Any

from edgekd.dependencies import (
    APART,
    EXPORTING,
    FORMAT_EXTRAS,
    QUANTIZING,
    RUNTIMES,
    TEXT,
    apart,
    apart_command,
    install_command,
    missing,
)
from edgekd.device import device_names
from edgekd.keys import package_version
from edgekd.runners.setup import device_state
from edgekd.target import Target, load_target, target_names


def examine() -> dict[str, Any]:
    """Packages with the installed version, and each target with what it lacks."""
    targets = {name: load_target(name) for name in target_names()}
    needed = {
        name: sorted({*TEXT, *QUANTIZING, *EXPORTING[target.format], *RUNTIMES[target.runtime]})
        for name, target in targets.items()
    }
    packages = sorted({package for names in needed.values() for package in names})
    tested = _tested_versions()
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "packages": {name: {"installed": package_version(name), "tested": tested.get(name)} for name in packages},
        "targets": {name: _readiness(missing(needed[name]), target) for name, target in targets.items()},
        "devices": {name: device_state(name) for name in device_names()},
    }


def _readiness(absent: list[str], target: Target) -> dict[str, Any]:
    mends = [install_command([FORMAT_EXTRAS[target.format]])] if absent else []
    if target.runtime == APART and not apart().is_dir():
        absent, mends = [*absent, APART], [*mends, apart_command()]
    return {"ready": not absent, "missing": absent, "mend": f"run: {' && '.join(mends)}" if mends else ""}


def _tested_versions() -> dict[str, str]:
    """The exact versions that edgekd's own requirements name."""
    try:
        lines = requires("edgekd") or []
    except PackageNotFoundError:
        return {}
    found = (re.match(r"([A-Za-z0-9._-]+)\s*==\s*([^\s;]+)", line) for line in lines)
    return {match[1].lower(): match[2] for match in found if match}
