"""What a step's key is made of: the content of data, the source of code, the versions of packages."""

import ast
import contextlib
import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgekd.artifact import sha256_of
from edgekd.errors import UsageError


def digest(document: Any) -> str:
    """SHA-256 of a JSON document in its canonical form."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Fingerprints:
    """Content digests of files and folders, remembered by path, size and modification time.

    Reading gigabytes again for every build would cost more than the build; a file whose size and time (in
    nanoseconds) have not changed is not read again. The memory is one JSON file, replaced as a whole.
    """

    def __init__(self, memory: Path) -> None:
        self._file = memory
        self._known: dict[str, list[Any]] = {}
        with contextlib.suppress(OSError, ValueError, AttributeError):
            entries = json.loads(memory.read_text()).items()
            self._known = {path: known for path, known in entries if isinstance(known, list) and len(known) == 3}
        self._changed = False

    def of(self, path: Path) -> str:
        """Digest of a file's content, or of the names and contents of all files below a folder.

        Raises UsageError if there is nothing at `path` or it cannot be read.
        """
        try:
            if path.is_dir():
                files = sorted(file for file in path.rglob("*") if file.is_file())
                return digest([[file.relative_to(path).as_posix(), self._file_digest(file)] for file in files])
            return self._file_digest(path)
        except FileNotFoundError:
            raise UsageError(f"{path}: no such file or folder") from None
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror})") from error

    def save(self) -> None:
        if not self._changed:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=self._file.parent, delete=False) as stream:
            json.dump(self._known, stream)
        Path(stream.name).replace(self._file)

    def _file_digest(self, file: Path) -> str:
        stat = file.stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        known = self._known.get(str(file))
        if known is None or known[:2] != stamp:
            known = [*stamp, sha256_of(file)]
            self._known[str(file)] = known
            self._changed = True
        return str(known[2])


def config_document(config: Any, fingerprints: Fingerprints) -> Any:
    """A config as JSON for a key. Dataclasses carry their type's name, and leave out fields that do not count when they
    are compared; paths stand for their content.
    """
    match config:
        case None | bool() | int() | float() | str():
            return config
        case Path():
            return {"content": fingerprints.of(config)}
        case Mapping():
            return {str(name): config_document(value, fingerprints) for name, value in config.items()}
        case list() | tuple():
            return [config_document(value, fingerprints) for value in config]
        case _ if dataclasses.is_dataclass(config):
            values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.compare}
            return {"type": type(config).__name__, **config_document(values, fingerprints)}
    raise TypeError(f"{type(config).__name__} cannot be part of a key")


@cache
def source_digest(modules: tuple[str, ...]) -> str:
    """Digest of the source of these modules, of the packages around them, and of all that they import from the same
    packages or from beside them, read as text.

    Nothing is imported, so that an unchanged build is recognised without loading a framework.
    Raises UsageError for a module that cannot be found.
    """
    roots = {module.partition(".")[0] for module in modules}
    seen: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        source = _source(module)
        if source is None:
            if module in modules:
                raise UsageError(f"module '{module}' is not found; put it beside the recipe or install it")
            continue
        seen[module] = source.digest
        waiting += [name for name in source.imports if name not in seen and _is_local(name, roots, source.beside)]
        if "." in module:
            waiting.append(module.rpartition(".")[0])
    return digest(sorted(seen.items()))


@dataclass(frozen=True)
class _Source:
    """A module's text: its digest, what it imports, and the folder that its package lies in."""

    digest: str
    imports: tuple[str, ...]
    beside: Path


@cache
def _source(module: str) -> _Source | None:
    """None for a module that is not there or has no Python source."""
    file = _source_file(module)
    if file is None:
        return None
    text = file.read_bytes()
    beside = file.parents[module.count(".") + (file.name == "__init__.py")]
    return _Source(hashlib.sha256(text).hexdigest(), tuple(dict.fromkeys(_imports(text, file, module))), beside)


def _is_local(name: str, roots: set[str], beside: Path) -> bool:
    """Is it of one of the packages asked for, or of the user's own folder? Installed packages count by version."""
    root = name.partition(".")[0]
    if root in roots:
        return True
    own = beside.name not in ("site-packages", "dist-packages")
    return own and ((beside / f"{root}.py").is_file() or (beside / root).is_dir())


def _source_file(module: str) -> Path | None:
    """The .py file of a module, found without importing its parents."""
    root, *rest = module.split(".")
    try:
        spec = find_spec(root)
    except (ImportError, ValueError):
        return None
    name = root
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, list(spec.submodule_search_locations))
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _imports(text: bytes, file: Path, module: str) -> Iterable[str]:
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise UsageError(f"{file}, line {error.lineno}: {error.msg}") from error
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, base] if base else parent)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


@cache
def package_version(distribution: str) -> str | None:
    """The installed version, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
