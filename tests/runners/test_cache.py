"""The cache under exceptions, SIGKILL and rivals: an entry is whole or absent, and made once."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgekd.cache import cache_dir, made
from edgekd.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
WORKER = """
import sys, time
from pathlib import Path
from edgekd.cache import made

path, count, mode = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def make(aside):
    with count.open("a") as stream:
        stream.write("made\\n")
    aside.mkdir()
    (aside / "first").write_text("1")
    print("inside", flush=True)
    time.sleep(60 if mode == "hang" else 0.5)
    (aside / "second").write_text("2")

print("ready", flush=True)
sys.stdin.readline()
made(path, make)
print("got", sorted(file.name for file in path.iterdir()), flush=True)
"""


def worker(path: Path, count: Path, mode: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(path), str(count), mode],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go(process: subprocess.Popen[str]) -> None:
    assert line(process) == "ready"
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def write(text: str, calls: list[Path] | None = None):  # type: ignore[no-untyped-def]
    def make(aside: Path) -> None:
        if calls is not None:
            calls.append(aside)
        aside.write_text(text)

    return make


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    calls: list[Path] = []
    path = tmp_path / "deep" / "entry"
    for text in ("first", "second"):
        assert made(path, write(text, calls)) == path
    assert path.read_text() == "first"
    assert len(calls) == 1


def test_a_maker_that_fails_leaves_nothing_and_may_try_again(tmp_path: Path) -> None:
    path = tmp_path / "entry"

    def fail(aside: Path) -> None:
        (aside / "inner").mkdir(parents=True)
        (aside / "inner" / "half").write_text("half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        made(path, fail)
    assert not path.exists()
    assert not [file for file in tmp_path.iterdir() if not file.name.endswith(".lock")]
    assert made(path, write("whole")).read_text() == "whole"


def test_a_killed_maker_leaves_no_entry_and_the_next_one_starts_afresh(tmp_path: Path) -> None:
    path, count = tmp_path / "entry", tmp_path / "count"
    first = worker(path, count, "hang")
    go(first)
    assert line(first) == "inside"
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not path.exists()
    second = worker(path, count, "quick")
    go(second)
    assert line(second) == "inside"
    assert line(second) == "got ['first', 'second']"
    assert second.wait() == 0


def test_rivals_make_an_entry_once(tmp_path: Path) -> None:
    path, count = tmp_path / "entry", tmp_path / "count"
    rivals = [worker(path, count, "quick") for _ in range(3)]
    for rival in rivals:
        go(rival)
    said = [rival.communicate()[0].splitlines()[-1] for rival in rivals]
    assert said == ["got ['first', 'second']"] * 3
    assert count.read_text() == "made\n"


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match=r"cannot be written.*EDGEKD_CACHE") as refused:
        made(tmp_path / "file" / "entry", write("x"))
    assert "\n" not in str(refused.value)


def test_the_cache_lies_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.setenv("EDGEKD_CACHE", "here")
    assert cache_dir() == Path.cwd() / "here"
    monkeypatch.delenv("EDGEKD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    if sys.platform == "linux":
        assert cache_dir() == tmp_path / "home" / "edgekd"
    assert cache_dir().is_absolute()
