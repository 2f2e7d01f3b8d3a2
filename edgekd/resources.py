"""The data files that travel with edgekd: targets, devices and built-in recipes.

In a checkout `targets/` and `devices/` stand beside the package; in an installed wheel they are inside it.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _folder(name: str) -> Path:
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


BUILT_IN_RECIPES = _PACKAGE / "recipes"
TARGETS = _folder("targets")
DEVICES = _folder("devices")
