"""What a key is made of: source read as text, data by content, configs by value."""

import hashlib
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from edgekd import keys
from edgekd.errors import UsageError
from edgekd.keys import Fingerprints, config_document, digest, package_version, source_digest

Write = Callable[[str, str], Path]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that modules are found in."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.fixture
def write(root: Path) -> Write:
    def writer(name: str, text: str) -> Path:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    return writer


@pytest.fixture
def package(write: Write) -> None:
    """A package `nest` whose module `nest.low.model` imports in every way there is."""
    files = {
        "__init__.py": "",
        "base.py": "from nest.deep import D",
        "deep.py": "D = 1",
        "side.py": "S = 1",
        "late.py": "L = 1",
        "stranger.py": "X = 1",
        "low/__init__.py": "",
        "low/beside.py": "B = 1",
        "low/named.py": "N = 1",
        "low/model.py": "from .. import side\nfrom ..base import D\nfrom . import beside\nfrom .named import N\n"
        "def f():\n    import nest.late\n",
    }
    for name, text in files.items():
        write(f"nest/{name}", text)


def fresh(*modules: str) -> str:
    """The digest as a new process would compute it."""
    source_digest.cache_clear()
    keys._source.cache_clear()
    importlib.invalidate_caches()
    return source_digest(modules)


def test_the_same_source_gives_the_same_digest(package: None):
    assert fresh("nest.low.model") == fresh("nest.low.model")


def test_a_changed_module_changes_the_digest(write: Write):
    write("alone.py", "A = 1")
    before = fresh("alone")
    write("alone.py", "A = 2")
    assert fresh("alone") != before


@pytest.mark.parametrize(
    "changed",
    ["low/model.py", "low/beside.py", "low/named.py", "side.py", "base.py", "deep.py", "late.py"],
)
def test_a_change_in_what_is_imported_changes_the_digest(changed: str, package: None, write: Write):
    before = fresh("nest.low.model")
    write(f"nest/{changed}", "CHANGED = 2")
    assert fresh("nest.low.model") != before


def test_a_change_in_what_is_not_imported_does_not(package: None, write: Write):
    before = fresh("nest.low.model")
    write("nest/stranger.py", "X = 2")
    assert fresh("nest.low.model") == before


@pytest.mark.parametrize("changed", ["outer/__init__.py", "outer/inner/__init__.py"])
def test_a_change_in_a_package_that_runs_first_changes_the_digest(changed: str, write: Write):
    write("outer/__init__.py", "")
    write("outer/inner/__init__.py", "")
    write("outer/inner/model.py", "M = 1")
    before = fresh("outer.inner.model")
    write(changed, "import sys\nsys.setrecursionlimit(5000)")
    assert fresh("outer.inner.model") != before


@pytest.mark.parametrize("importer", ["top.py", "nest/top.py"])
@pytest.mark.parametrize("statement", ["import common", "from common import C", "from common import *"])
def test_a_module_beside_the_recipe_is_followed(importer: str, statement: str, write: Write):
    write("nest/__init__.py", "")
    write(importer, statement)
    write("common.py", "C = 1")
    module = importer.removesuffix(".py").replace("/", ".")
    before = fresh(module)
    write("common.py", "C = 2")
    assert fresh(module) != before


def test_modules_that_import_each_other_are_read_once(write: Write):
    write("one.py", "import two")
    write("two.py", "import one")
    assert fresh("one") == fresh("two")


def test_the_folder_that_modules_are_in_does_not_count(package: None, root: Path, monkeypatch: pytest.MonkeyPatch):
    before = fresh("nest.low.model")
    moved = root.with_name("moved")
    root.rename(moved)
    monkeypatch.syspath_prepend(str(moved))
    assert fresh("nest.low.model") == before


def test_a_folder_without_init_is_a_package_too(write: Write):
    write("plain/model.py", "from .part import P")
    write("plain/part.py", "P = 1")
    before = fresh("plain.model")
    write("plain/part.py", "P = 2")
    assert fresh("plain.model") != before


def test_nothing_is_imported(write: Write):
    write("bomb/__init__.py", "raise SystemExit('imported')")
    write("bomb/fuse.py", "raise SystemExit('imported')")
    write("bomb/model.py", "import bomb.fuse\nraise SystemExit('imported')")
    assert len(fresh("bomb.model")) == 64
    assert not [name for name in sys.modules if name.startswith("bomb")]


def test_a_module_that_needs_what_is_not_installed_is_read(write: Write):
    write("optional.py", "try:\n    import not_installed_anywhere\nexcept ImportError:\n    pass")
    assert len(fresh("optional")) == 64


@pytest.mark.parametrize("module", ["nowhere", "nowhere.mod", "json.nowhere", "nest.nowhere", "nest.low.model.deeper"])
def test_a_missing_module_is_named(module: str, package: None):
    with pytest.raises(UsageError, match=f"'{module}' is not found"):
        fresh(module)


@pytest.mark.parametrize("broken", ["wrong.py", "helper.py"])
def test_a_syntax_error_names_file_and_line(broken: str, write: Write):
    write("wrong.py", "import helper\n")
    write("helper.py", "")
    file = write(broken, "a = 1\nb = = 2\n")
    with pytest.raises(UsageError) as error:
        fresh("wrong")
    assert f"{file}, line 2" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "store/fingerprints.json"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "inner").mkdir(parents=True)
    (folder / "a.wav").write_bytes(b"aaaa")
    (folder / "inner/b.wav").write_bytes(b"bbbb")
    return folder


def rewrite(file: Path, content: bytes, keep_time: bool = False) -> None:
    """Other content; the time moves on by a second, or stays as it was."""
    time = file.stat().st_mtime_ns
    file.write_bytes(content)
    moved = time if keep_time else time + 10**9
    os.utime(file, ns=(moved, moved))


def test_a_file_counts_by_its_sha256(data: Path, memory: Path):
    assert Fingerprints(memory).of(data / "a.wav") == hashlib.sha256(b"aaaa").hexdigest()


def test_changed_content_of_the_same_size_is_seen(data: Path, memory: Path):
    fingerprints = Fingerprints(memory)
    before = fingerprints.of(data / "a.wav"), fingerprints.of(data)
    rewrite(data / "a.wav", b"AAAA")
    assert fingerprints.of(data / "a.wav") == hashlib.sha256(b"AAAA").hexdigest()
    assert fingerprints.of(data) != before[1]


def test_a_folder_counts_the_same_wherever_it_is(data: Path, memory: Path, tmp_path: Path):
    before = Fingerprints(memory).of(data)
    moved = data.rename(tmp_path / "moved")
    assert Fingerprints(memory).of(moved) == before


def test_a_touched_folder_counts_the_same(data: Path, memory: Path):
    fingerprints = Fingerprints(memory)
    before = fingerprints.of(data)
    rewrite(data / "a.wav", b"aaaa")
    assert fingerprints.of(data) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda data: (data / "a.wav").rename(data / "c.wav"),
        lambda data: (data / "a.wav").rename(data / "inner/a.wav"),
        lambda data: (data / "a.wav").unlink(),
        lambda data: (data / "new.wav").write_bytes(b""),
        lambda data: rewrite(data / "inner/b.wav", b"BBBB"),
        lambda data: [rewrite(data / "a.wav", b"bbbb"), rewrite(data / "inner/b.wav", b"aaaa")],
    ],
    ids=["renamed", "moved", "removed", "added", "changed", "swapped"],
)
def test_a_change_in_a_folder_is_seen(change: Callable[[Path], Any], data: Path, memory: Path):
    fingerprints = Fingerprints(memory)
    before = fingerprints.of(data)
    change(data)
    assert fingerprints.of(data) != before


def test_names_and_contents_are_not_run_together(tmp_path: Path, memory: Path):
    for folder, name, content in (("x", "a", b"bc"), ("y", "ab", b"c")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(content)
    assert Fingerprints(memory).of(tmp_path / "x") != Fingerprints(memory).of(tmp_path / "y")


def test_a_file_that_is_remembered_is_not_read_again(data: Path, memory: Path):
    first = Fingerprints(memory)
    before = first.of(data / "a.wav")
    first.save()
    rewrite(data / "a.wav", b"AAAA", keep_time=True)
    assert Fingerprints(memory).of(data / "a.wav") == before
    assert Fingerprints(memory.with_name("other.json")).of(data / "a.wav") != before


def test_nothing_is_written_before_save(data: Path, memory: Path):
    Fingerprints(memory).of(data)
    assert not memory.exists()


def test_save_leaves_one_file(data: Path, memory: Path):
    for content in (b"1", b"2"):
        rewrite(data / "a.wav", content)
        fingerprints = Fingerprints(memory)
        fingerprints.of(data)
        fingerprints.save()
    assert list(memory.parent.iterdir()) == [memory]


@pytest.mark.parametrize("text", ["", "{", "[]", "5", '{"FILE": 5}', '{"FILE": [4]}', "\x00"])
def test_a_damaged_memory_is_as_good_as_none(text: str, data: Path, memory: Path):
    memory.parent.mkdir()
    memory.write_text(text.replace("FILE", str(data / "a.wav")))
    fingerprints = Fingerprints(memory)
    assert fingerprints.of(data / "a.wav") == hashlib.sha256(b"aaaa").hexdigest()
    fingerprints.save()
    assert Fingerprints(memory).of(data / "a.wav") == hashlib.sha256(b"aaaa").hexdigest()


@pytest.mark.parametrize("path", ["nowhere", "a.wav/below"])
def test_a_missing_path_is_named(path: str, data: Path, memory: Path):
    with pytest.raises(UsageError) as error:
        Fingerprints(memory).of(data / path)
    assert str(error.value).startswith(f"{data / path}: ")


@dataclass(frozen=True)
class Config:
    number: float
    file: Path | None = None


@dataclass(frozen=True)
class Twin:
    number: float
    file: Path | None = None


@dataclass(frozen=True)
class Patient:
    number: float
    seconds: float = field(default=1.0, compare=False)


@pytest.fixture
def document(memory: Path) -> Callable[[Any], Any]:
    return lambda config: config_document(config, Fingerprints(memory))


def test_plain_values_stand_for_themselves(document: Callable[[Any], Any]):
    config = {"a": 1, "b": [True, None, "x"], "c": (1.5, {"d": 2})}
    assert document(config) == {"a": 1, "b": [True, None, "x"], "c": [1.5, {"d": 2}]}


def test_a_path_counts_by_content(data: Path, document: Callable[[Any], Any]):
    copy = data / "inner/copy.wav"
    copy.write_bytes(b"aaaa")
    assert document(Config(1.0, data / "a.wav")) == document(Config(1.0, copy))
    assert document(Config(1.0, data / "a.wav")) != document(Config(1.0, data / "inner/b.wav"))
    assert document(Config(1.0, data / "a.wav")) != document(Config(1.0))
    assert str(data) not in str(document([Config(1.0, data / "a.wav")]))


def test_the_type_of_a_dataclass_counts(document: Callable[[Any], Any]):
    assert document(Config(1.0)) != document(Twin(1.0))
    assert document({"in": Config(1.0)}) != document({"in": Twin(1.0)})


def test_what_does_not_count_in_a_comparison_does_not_count_in_a_key(document: Callable[[Any], Any]):
    assert document(Patient(1.0, 2.0)) == document(Patient(1.0, 3.0))
    assert document(Patient(1.0, 2.0)) != document(Patient(2.0, 2.0))


def test_what_has_no_stable_form_is_refused(document: Callable[[Any], Any]):
    with pytest.raises(TypeError, match="object"):
        document({"a": [object()]})


def test_a_digest_is_the_sha256_of_canonical_json():
    assert digest({"b": [2, None], "a": "é"}) == hashlib.sha256(b'{"a":"\\u00e9","b":[2,null]}').hexdigest()


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), (1, True), ("1", 1), ([], {}), ([1, 2], [2, 1]), ("", None)])
def test_different_documents_have_different_digests(one: Any, other: Any):
    assert digest(one) != digest(other)


def test_package_version_is_the_installed_one():
    assert package_version("numpy") == version("numpy")
    assert package_version("no-such-distribution") is None
