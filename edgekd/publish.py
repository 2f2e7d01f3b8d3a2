"""From the store to the folder that the user takes: a target's model, manifest and golden samples, or nothing."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact, sha256_of
from edgekd.errors import UsageError

MANIFEST = "manifest.json"


def check_writable(folder: Path) -> None:
    """Make a folder and write into it; raises UsageError if that cannot be done, before any work is."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from error


def publish(target_folder: Path, manifest: dict[str, Any], files: dict[str, tuple[Artifact, str]]) -> None:
    """Put files (name here -> artifact, name there) and the manifest into a folder, all of them or none.

    A folder that holds just these already is left alone. What is copied is checked against the artifact's digest.

    Raises UsageError if a file in the store is damaged.
    """
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    if _is_current(target_folder, text, files):
        return
    target_folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target_folder.name}-", dir=target_folder.parent))
    try:
        for name, (artifact, source) in files.items():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(artifact.file(source), aside / name)
            if sha256_of(aside / name) != artifact.files[source].sha256:
                shutil.rmtree(artifact.path)
                raise UsageError(f"{artifact.path} was damaged and is removed; build again to make it anew")
        (aside / MANIFEST).write_text(text)
        aside.chmod(0o755)
        withdraw(target_folder)
        aside.rename(target_folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def withdraw(target_folder: Path) -> None:
    """Remove a published target, so that nothing that failed or is outdated keeps the final name."""
    if not target_folder.exists():
        return
    grave = Path(tempfile.mkdtemp(prefix=f".{target_folder.name}-", dir=target_folder.parent))
    target_folder.rename(grave / "old")
    shutil.rmtree(grave, ignore_errors=True)


def _is_current(folder: Path, manifest: str, files: dict[str, tuple[Artifact, str]]) -> bool:
    try:
        return (folder / MANIFEST).read_text() == manifest and all(
            sha256_of(folder / name) == artifact.files[source].sha256 for name, (artifact, source) in files.items()
        )
    except OSError:
        return False
