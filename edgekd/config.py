"""A TOML file read into a frozen dataclass; whatever does not fit is refused by file, key and nearest valid key."""

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from edgekd.errors import UsageError

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


def read_config(kind: type[T], text: str, origin: str, overrides: Sequence[str] = ()) -> T:
    """Parse `text` (TOML), apply `a.b=value` overrides, and validate strictly into the dataclass `kind`.

    Raises UsageError naming `origin`, the key, and the nearest valid key or the values that are allowed.
    """
    return validate(kind, read_document(text, origin, overrides), origin)


def read_document(text: str, origin: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """TOML with overrides, not yet validated; raises UsageError for either that cannot be read."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{origin}: not valid TOML: {error}") from error
    for override in overrides:
        _apply(document, override)
    return document


def merged(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The document with the changes: tables are merged key by key, everything else is replaced."""
    found = dict(document)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = merged(found[key], value) if both else value
    return found


def validate(kind: type[T], document: Mapping[str, Any], origin: str) -> T:
    """A document as the dataclass `kind`, strictly; raises UsageError as `read_config` does."""
    try:
        return TypeAdapter(kind).validate_json(json.dumps(document, default=str), strict=True)
    except ValidationError as error:
        raise UsageError(f"{origin}: {_explain(error.errors()[0], document, kind)}") from error


def read_text(file: Path) -> str:
    """Read a UTF-8 text file; raises UsageError if it is missing or is not text."""
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{file}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read as UTF-8 text ({error})") from error


def nearest(word: str, known: Iterable[str]) -> str:
    """The clause that closes an unknown-name error: `did you mean 'x'?`, or every name there is."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(names) or 'none'}"


def _apply(document: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise UsageError(f"--set {override}: write it as key=value, for example --set distill.temperature=2")
    if "\n" in override:
        raise UsageError(f"--set {' '.join(override.split())}: one line and one key at a time")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    table = document
    for part in path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise UsageError(f"--set {override}: '{part}' is a value, not a table")
    table[path[-1]] = value


def _explain(error: ErrorDetails, document: Mapping[str, Any], kind: type) -> str:
    absent = error["type"] in ("missing", "missing_argument")
    unknown = error["type"] in ("extra_forbidden", "unexpected_keyword_argument")
    keys = _document_keys(error["loc"], document, last_is_a_key=absent or unknown)
    key = " ".join(".".join(map(str, keys)).split())
    if unknown:
        return f"unknown key '{key}'; {nearest(str(keys[-1]), _siblings(kind, error['loc']))}"
    if absent:
        return f"'{key}' is missing; add it"
    if error["type"] == "union_tag_not_found":
        return f"'{key}.{_discriminator(error)}' is missing; add it"
    if error["type"] == "union_tag_invalid":
        tag, expected = error["ctx"]["tag"], error["ctx"]["expected_tags"]
        return f"'{key}.{_discriminator(error)}': must be one of {expected}, not '{tag}'"
    value = f", not {error['input']!r}" if isinstance(error["input"], str | int | float | bool) else ""
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"'{key}': {message[0].lower()}{message[1:]}{value}" if key else message


def _discriminator(error: ErrorDetails) -> str:
    """The key that chooses a union's member; where a function chooses, that is the kind."""
    name = str(error["ctx"]["discriminator"]).strip("'")
    return "kind" if name.endswith("()") else name


def _document_keys(loc: tuple[int | str, ...], document: Mapping[str, Any], last_is_a_key: bool) -> list[int | str]:
    """The location without the union tags that the validator adds and the user never wrote."""
    keys: list[int | str] = []
    here: Any = document
    for position, part in enumerate(loc):
        known = isinstance(part, int) if isinstance(here, list) else isinstance(here, Mapping) and part in here
        if known or (last_is_a_key and position == len(loc) - 1):
            keys.append(part)
            here = here[part] if known else None
    return keys


def _siblings(kind: type, loc: tuple[int | str, ...]) -> list[str]:
    """The keys that are valid where `loc` points: walk the dataclass fields, and union members by their tag.

    Positions in a list, and tags that no dataclass has, lead nowhere else.
    """
    candidates = [kind]
    for part in loc[:-1]:
        matching = [field.type for c in candidates for field in dataclasses.fields(c) if field.name == part] or [
            c for c in candidates if part in _literal_values(c)
        ]
        if matching:
            candidates = [c for annotation in matching for c in _dataclasses_in(annotation)]
    return [field.name for c in candidates for field in dataclasses.fields(c)]


def _dataclasses_in(annotation: Any) -> list[type]:
    if dataclasses.is_dataclass(annotation):
        return [annotation] if isinstance(annotation, type) else []
    return [found for part in getattr(annotation, "__args__", ()) for found in _dataclasses_in(part)]


def _literal_values(kind: type) -> list[Any]:
    return [value for field in dataclasses.fields(kind) for value in getattr(field.type, "__args__", ())]
