"""`package.module:function` in a recipe, brought to life."""

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekd.config import nearest
from edgekd.errors import EdgekdError, UsageError

MODELS = "edgekd.models"
"""Where a bare model name is looked up."""


def module_of(reference: str, family: str = "") -> str:
    """The module behind a reference. A bare name `x` stands for `<family>.x:x`.

    Raises UsageError, with the nearest name, for a bare name that edgekd does not have.
    """
    module, _, function = reference.partition(":")
    if function:
        return module
    folder = Path(__file__).parent.parent.joinpath(*family.split("."))
    names = [file.stem for file in folder.glob("*.py") if f"\ndef {file.stem}(" in file.read_text(encoding="utf-8")]
    if module not in names:
        raise UsageError(f"'{module}' is not built in; {nearest(module, names)}; yours is named as module:function")
    return f"{family}.{module}"


def resolve(reference: str, family: str = "") -> Callable[..., Any]:
    """Import the function behind a reference.

    Raises UsageError if the module or the function is missing, or if the module fails while it is imported.
    """
    module_name = module_of(reference, family)
    function_name = reference.rpartition(":")[2]
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise UsageError(
                f"{reference}: module '{module_name}' is not found; put it beside the recipe or install it"
            ) from error
        raise UsageError(f"{reference}: importing {module_name} failed: {error}") from error
    except Exception as error:
        raise UsageError(f"{reference}: importing {module_name} failed: {_one_line(error)}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        names = [name for name in vars(module) if not name.startswith("_") and callable(vars(module)[name])]
        raise UsageError(
            f"{reference}: {module_name} has no function '{function_name}'; {nearest(function_name, names)}"
        )
    return function  # type: ignore[no-any-return]


def call(reference: str, family: str, *positional: Any, args: Mapping[str, Any]) -> Any:
    """Call the function behind a reference; whatever it raises becomes one UsageError that names it."""
    function = resolve(reference, family)
    try:
        return function(*positional, **args)
    except EdgekdError:
        raise
    except Exception as error:
        raise UsageError(f"{reference}: {_one_line(error)}") from error


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let modules in `folder` be imported while the context lasts."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
