"""The immutable result of a step: files, what they are, and where they came from."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Facts = dict[str, Any]
"""What a step found out, as JSON: counts, accuracies, scales. Never an array."""

MANIFEST = "artifact.json"


@dataclass(frozen=True)
class State:
    """What an artifact is. In a requirement, None stands for anything."""

    format: str | None
    precision: Literal["float32", "float16", "qat", "ptq", "int8", "int8-weights"] | None = None
    structure: Literal["dense", "pruned", "factorized", "sparse"] | None = None

    def meets(self, required: "State") -> bool:
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(required), strict=True)
        return all(wanted is None or have == wanted for have, wanted in pairs)

    def __str__(self) -> str:
        return " ".join(word for word in dataclasses.astuple(self)[::-1] if word)


@dataclass(frozen=True)
class FileInfo:
    """Size in bytes and SHA-256 of one file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Provenance:
    """Everything that the files depend on, and how long they took."""

    config: Any
    inputs: Mapping[str, str]
    sources: str
    versions: Mapping[str, str]
    seed: int
    seconds: float
    created: str


@dataclass(frozen=True)
class Artifact:
    """A finished step in the store."""

    key: str
    step: str
    path: Path
    state: State
    files: Mapping[str, FileInfo]
    facts: Facts
    provenance: Provenance

    def file(self, name: str) -> Path:
        """The path of one of its files; raises KeyError for a name that the step did not make."""
        self.files[name]
        return self.path / name


def write_manifest(artifact: Artifact) -> None:
    document = dataclasses.asdict(artifact)
    del document["path"]
    (artifact.path / MANIFEST).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def read_manifest(path: Path) -> Artifact | None:
    """The artifact at `path`, or None where there is no complete one."""
    try:
        document = json.loads((path / MANIFEST).read_text())
        artifact = Artifact(
            key=document["key"],
            step=document["step"],
            path=path,
            state=State(**document["state"]),
            files={name: FileInfo(**info) for name, info in document["files"].items()},
            facts=document["facts"],
            provenance=Provenance(**document["provenance"]),
        )
        complete = all((path / name).stat().st_size == info.bytes for name, info in artifact.files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return artifact if complete else None


def describe_files(folder: Path) -> dict[str, FileInfo]:
    """Size and digest of every file below `folder`, by relative POSIX name."""
    return {
        file.relative_to(folder).as_posix(): FileInfo(file.stat().st_size, sha256_of(file))
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }


def sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
