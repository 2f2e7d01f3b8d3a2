"""The store under exceptions, damage, SIGKILL and rivals: whole or absent."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from hashlib import sha256
from pathlib import Path

import pytest

from edgekd.artifact import MANIFEST, Facts, FileInfo, Provenance, State, read_manifest, write_manifest
from edgekd.store import Order, Store

ROOT = Path(__file__).resolve().parents[1]
KEY = sha256(b"key").hexdigest()
MODEL = bytes(range(256)) * 64
STATE = State("torch", "float32", "dense")
PROVENANCE = Provenance({"epochs": 3}, {"data": "d" * 64}, "s" * 64, {"torch": "1"}, seed=7, seconds=0.0, created="")

WORKER = """
import os, sys, time
from pathlib import Path
from edgekd.artifact import Provenance, State
from edgekd.store import Order, Store

root, key, count, mode = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4]

def make(out):
    with count.open("a") as stream:
        stream.write("made\\n")
    (out / "model.bin").write_bytes(b"half")
    (out / "left-over.bin").write_bytes(b"x")
    print("inside", flush=True)
    time.sleep(60 if mode == "hang" else 0.5)
    (out / "left-over.bin").unlink()
    (out / "model.bin").write_text(str(os.getpid()))
    return {}

print("ready", flush=True)
sys.stdin.readline()
order = Order(key, "student", State("torch"), Provenance({}, {}, "", {}, 0, 0.0, ""))
artifact, cached = Store(root).obtain(order, make)
print("got", artifact.file("model.bin").read_text(), cached, flush=True)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def order(key: str = KEY) -> Order:
    return Order(key, "student", STATE, PROVENANCE)


def fill(out: Path) -> Facts:
    (out / "inner").mkdir()
    (out / "model.bin").write_bytes(MODEL)
    (out / "inner/table.json").write_text("{}")
    return {"accuracy": 0.5, "labels": ["a", "b"]}


def never(out: Path) -> Facts:
    raise AssertionError("made again")


def files_below(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def assert_nothing_kept(store: Store) -> None:
    assert store.get(KEY) is None
    for place in ("artifacts", "partial"):
        assert files_below(store.root / place) == []


def test_an_unknown_key_is_not_there(store: Store):
    assert store.get(KEY) is None


def test_made_once_then_there(store: Store):
    made, cached = store.obtain(order(), fill)
    assert not cached
    again, cached = store.obtain(order(), never)
    assert cached
    assert again == made == store.get(KEY)
    assert made.file("model.bin").read_bytes() == MODEL


def test_another_process_finds_what_this_one_made(store: Store):
    made, _ = store.obtain(order(), fill)
    assert Store(store.root).get(KEY) == made


def test_keys_do_not_share(store: Store):
    store.obtain(order(), fill)
    other = KEY[:-1] + "x"
    assert store.get(other) is None
    assert not store.obtain(order(other), fill)[1]


def test_an_artifact_says_what_it_is(store: Store):
    made, _ = store.obtain(order(), fill)
    assert (made.key, made.step, made.state) == (KEY, "student", STATE)
    assert made.facts == {"accuracy": 0.5, "labels": ["a", "b"]}
    assert made.files == {
        "model.bin": FileInfo(len(MODEL), sha256(MODEL).hexdigest()),
        "inner/table.json": FileInfo(2, sha256(b"{}").hexdigest()),
    }
    kept = dataclasses.replace(made.provenance, seconds=0.0, created="")
    assert kept == PROVENANCE


def test_time_and_date_are_those_of_the_making(store: Store):
    def slow(out: Path) -> Facts:
        time.sleep(0.05)
        return fill(out)

    made, _ = store.obtain(order(), slow)
    assert 0.05 <= made.provenance.seconds < 30
    age = time.time() - datetime.fromisoformat(made.provenance.created).timestamp()
    assert -1 < age < 60


def test_a_file_that_was_not_made_has_no_path(store: Store):
    made, _ = store.obtain(order(), fill)
    with pytest.raises(KeyError):
        made.file("other.bin")


def test_a_manifest_round_trip_keeps_everything(store: Store, tmp_path: Path):
    made, _ = store.obtain(order(), fill)
    copy = dataclasses.replace(made, path=tmp_path / "copy", facts={"nested": {"none": None, "list": [1, 2.5]}})
    (copy.path / "inner").mkdir(parents=True)
    for name in made.files:
        (copy.path / name).write_bytes(made.file(name).read_bytes())
    write_manifest(copy)
    assert read_manifest(copy.path) == copy


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_keeps_nothing(error: type[BaseException], store: Store):
    def fail(out: Path) -> Facts:
        fill(out)
        raise error

    with pytest.raises(error):
        store.obtain(order(), fail)
    assert_nothing_kept(store)
    assert not store.obtain(order(), fill)[1]


def test_facts_that_are_no_json_keep_nothing(store: Store):
    with pytest.raises(TypeError):
        store.obtain(order(), lambda out: {**fill(out), "array": object()})
    assert_nothing_kept(store)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def grow(file: Path) -> None:
    os.truncate(file, file.stat().st_size + 1)


def to_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def edit_manifest(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        document = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps({**document, **changes}))

    return edit


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda folder: truncate(folder / "model.bin"),
    "grown": lambda folder: grow(folder / "model.bin"),
    "missing": lambda folder: (folder / "model.bin").unlink(),
    "inner missing": lambda folder: (folder / "inner/table.json").unlink(),
    "a folder instead": lambda folder: to_folder(folder / "model.bin"),
    "no manifest": lambda folder: (folder / MANIFEST).unlink(),
    "half a manifest": lambda folder: os.truncate(folder / MANIFEST, 40),
    "empty manifest": lambda folder: os.truncate(folder / MANIFEST, 0),
    "manifest of a list": lambda folder: (folder / MANIFEST).write_text("[]"),
    "manifest without keys": lambda folder: (folder / MANIFEST).write_text("{}"),
    "manifest of bytes": lambda folder: (folder / MANIFEST).write_bytes(b"\xff\xfe"),
    "files of a list": edit_manifest(files=[]),
    "unknown state": edit_manifest(state={"colour": "red"}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_artifact_is_not_there_and_is_made_again(damage: Callable[[Path], object], store: Store):
    made, _ = store.obtain(order(), fill)
    damage(made.path)
    assert store.get(KEY) is None
    again, cached = store.obtain(order(), fill)
    assert not cached
    assert again.file("model.bin").read_bytes() == MODEL
    assert files_below(again.path) == sorted(["inner/table.json", "model.bin", MANIFEST])


def test_what_a_broken_attempt_left_is_not_taken_over(store: Store):
    left = store.root / "partial" / KEY
    left.mkdir(parents=True)
    (left / "left-over.bin").write_bytes(b"x")
    made, _ = store.obtain(order(), fill)
    assert set(made.files) == {"model.bin", "inner/table.json"}


class Workers:
    """Real processes that want the same key from the same store."""

    def __init__(self, store: Store, count: Path) -> None:
        self._store, self._count = store, count
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, mode: str = "make") -> subprocess.Popen[str]:
        """A worker that is loaded and waits for `go`."""
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(self._store.root), KEY, str(self._count), mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.processes.append(worker)
        assert self.line(worker) == "ready"
        return worker

    @staticmethod
    def go(worker: subprocess.Popen[str]) -> None:
        assert worker.stdin
        worker.stdin.write("\n")
        worker.stdin.flush()

    @staticmethod
    def line(worker: subprocess.Popen[str]) -> str:
        assert worker.stdout
        return worker.stdout.readline().strip()

    @property
    def times_made(self) -> int:
        return len(self._count.read_text().splitlines())


def test_scratch_outlives_a_failure_and_goes_with_the_artifact(store: Store):
    def fail(out: Path) -> Facts:
        (store.scratch(KEY) / "checkpoint").write_text("half-way")
        raise ValueError("it failed")

    with pytest.raises(ValueError, match="it failed"):
        store.obtain(order(), fail)

    def finish(out: Path) -> Facts:
        (out / "model.bin").write_text((store.scratch(KEY) / "checkpoint").read_text())
        return {}

    made, _ = store.obtain(order(), finish)
    assert made.file("model.bin").read_text() == "half-way"
    assert files_below(store.root / "scratch") == []
    assert list((store.root / "scratch").iterdir()) == []


def test_scratch_of_another_key_stays(store: Store):
    other = KEY[:-1] + "x"
    (store.scratch(other) / "checkpoint").touch()
    store.obtain(order(), fill)
    assert files_below(store.root / "scratch") == [f"{other}/checkpoint"]


@pytest.fixture
def workers(store: Store, tmp_path: Path) -> Iterator[Workers]:
    started = Workers(store, tmp_path / "count")
    yield started
    for process in started.processes:
        process.kill()
        process.communicate()


def kill(worker: subprocess.Popen[str]) -> None:
    os.kill(worker.pid, signal.SIGKILL)
    assert worker.wait(10) == -signal.SIGKILL


def test_a_killed_maker_leaves_nothing_half(store: Store, workers: Workers):
    worker = workers.start("hang")
    workers.go(worker)
    assert workers.line(worker) == "inside"
    kill(worker)
    assert store.get(KEY) is None
    made, cached = store.obtain(order(), fill)
    assert not cached
    assert set(made.files) == {"model.bin", "inner/table.json"}
    assert made.file("model.bin").read_bytes() == MODEL
    assert files_below(store.root / "partial") == []


def test_who_waits_for_a_maker_that_is_killed_makes_it(store: Store, workers: Workers):
    hanging, waiting = workers.start("hang"), workers.start()
    workers.go(hanging)
    assert workers.line(hanging) == "inside"
    workers.go(waiting)
    time.sleep(0.2)
    assert workers.times_made == 1
    kill(hanging)
    assert workers.line(waiting) == "inside"
    assert workers.line(waiting) == f"got {waiting.pid} False"
    assert workers.times_made == 2


def test_two_processes_make_it_once(store: Store, workers: Workers):
    pair = [workers.start(), workers.start()]
    for worker in pair:
        workers.go(worker)
    said = [[line.strip() for line in worker.communicate(timeout=30)[0].splitlines()] for worker in pair]
    results = sorted(lines[-1] for lines in said)
    maker = next(worker.pid for worker, lines in zip(pair, said, strict=True) if "inside" in lines)
    assert results == [f"got {maker} False", f"got {maker} True"]
    assert workers.times_made == 1
    artifact = store.get(KEY)
    assert artifact
    assert set(artifact.files) == {"model.bin"}
