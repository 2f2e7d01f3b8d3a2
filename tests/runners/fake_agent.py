"""A stand-in for the agent, for tests of the way to a device: it speaks the same events and measures nothing.

How it misbehaves stands in the model: a file that holds `killed`, `garbage`, `no newline`, `endless` or `library`.
A file `stop` in edgekd's folder makes a run stay in its active phase until the file `go` is there.
"""

import fcntl
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

TIMED_NS = 1_000_000
RUN_NS = 1000


def tell(event: str, **values: Any) -> None:
    print(json.dumps({"event": event, **values}), flush=True)


def fail(message: str, status: int = 1) -> None:
    tell("error", message=message)
    sys.exit(status)


def describe() -> None:
    system = os.uname()
    tell(
        "device",
        machine=system.machine,
        system=system.sysname,
        release=system.release,
        page_size=4096,
        cores=os.cpu_count(),
        cpu=None,
        memory_bytes=None,
        sensors={},
    )


def hold(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / ".sweep").open("w") as door:
        fcntl.flock(door, fcntl.LOCK_EX)
        folder.mkdir()
        mark = (folder / ".held").open("w")
        fcntl.flock(mark, fcntl.LOCK_EX)
    tell("held")
    sys.stdin.read()
    shutil.rmtree(folder)


def sweep(parent: Path) -> None:
    count = 0
    for folder in parent.glob("*/") if parent.is_dir() else ():
        with (parent / ".sweep").open("w") as door:
            fcntl.flock(door, fcntl.LOCK_EX)
            try:
                with (folder / ".held").open("a") as mark:
                    fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)
                    count += 1
            except (BlockingIOError, FileNotFoundError):
                pass
    tell("swept", count=count)


def run(file: Path) -> None:
    lines = [line.split(" ", 1) for line in file.read_text().splitlines()[1:]]
    job = dict(lines)
    folder = file.parent
    lock = (folder / job["lock"]).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        (folder.parent.parent / "waiting").touch()
        tell("waiting")
        fcntl.flock(lock, fcntl.LOCK_EX)
    model = (folder / job["model"]).read_bytes()
    state: dict[str, Any] = {"governor": None, "frequency_khz": [], "temperature_millicelsius": [], "battery": None}
    tell("state", when="before", **state, load1=0.5)
    if not (folder / job["library"]).is_file():
        fail(f"{job['library']}: cannot open shared object file: No such file or directory")
    tell("base_memory", model=0, bytes=1000)
    tell("load", model=0, ns=5)
    if model == b"killed":
        os.kill(os.getpid(), signal.SIGKILL)
    while model == b"garbage":
        print("Segmentation fault (core dumped)", flush=True)
    while model == b"no newline":
        sys.stdout.write("x" * 65536)
    given = (folder / job["input"]).read_bytes() if "input" in job else b""
    for kind in ("input", "output"):
        tell("tensor", model=0, kind=kind, index=0, name=kind, dtype="uint8", shape=[1, 4], bytes=4)
    if "output" in job:
        (folder / job["output"]).write_bytes(given[::-1])
        tell("outputs", model=0, samples=len(given) // 4)
    (folder / "running").touch()
    home = folder.parent.parent
    while (home / "stop").exists() and not (home / "go").exists():
        time.sleep(0.01)
    start = time.monotonic_ns()
    tell("phase", name="active", start_ns=start, end_ns=start + TIMED_NS)
    tell("memory", peak_bytes=2000, arena_bytes=None)
    tell("runs", model=0, block=None, start_ns=start, ns=[RUN_NS, RUN_NS + 1])
    while model == b"endless":
        tell("runs", model=0, block=None, start_ns=start, ns=[0] * 1024)
    tell("state", when="after", **state, load1=0.5)
    tell("end")


COMMANDS = {"describe": describe, "hold": hold, "sweep": sweep, "run": run}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*(Path(path) for path in sys.argv[2:]))
