"""Results that are kept in a folder, so that a run that was killed goes on where it ended."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekd.keys import digest


def key_of(description: Any) -> str:
    """A short digest of dataclasses, numbers, strings, paths and containers of them."""
    plain = json.loads(json.dumps(description, default=_plain))
    return digest(plain)[:16]


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else str(value)


def kept(file: Path, make: Callable[[], Any]) -> Any:
    """The JSON document in `file`, or what `make` returns, then written there as a whole."""
    if file.is_file():
        return json.loads(file.read_text())
    document = make()
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1) + "\n")
    part.replace(file)
    return document
