"""Writing `report.json` and the page made from it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekd.errors import UsageError

JSON_NAME, HTML_NAME = "report.json", "report.html"


def write_report(home: Path, document: dict[str, Any]) -> Path:
    """Write `report.json` and `report.html`. Returns the page's path."""

    def page(document: dict[str, Any]) -> str:
        from edgekd.report.html import render

        return render(document)

    return write_pair(home / JSON_NAME, home / HTML_NAME, document, page)


def write_pair(json_file: Path, page: Path, document: dict[str, Any], render: Callable[[dict[str, Any]], str]) -> Path:
    """Write a document and the page made from it, each replaced as a whole; unchanged, both are left alone."""
    text = json.dumps(document, indent=1, sort_keys=True) + "\n"
    if page.is_file() and json_file.is_file() and json_file.read_text() == text:
        return page
    _replace(page, render(document))
    _replace(json_file, text)
    return page


def render_again(build_folder: Path) -> Path:
    """Make the page of a finished build from its `report.json`. Raises UsageError if there is none."""
    from jinja2 import UndefinedError

    from edgekd.report.html import render

    json_file = build_folder / JSON_NAME
    try:
        page = render(json.loads(json_file.read_text()))
    except OSError as error:
        raise UsageError(
            f"{json_file}: cannot be read ({error.strerror}); give the folder that a build wrote"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, UndefinedError) as error:
        raise UsageError(f"{json_file}: not a report of edgekd ({type(error).__name__}: {error})") from error
    _replace(build_folder / HTML_NAME, page)
    return build_folder / HTML_NAME


def _replace(file: Path, text: str) -> None:
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)
