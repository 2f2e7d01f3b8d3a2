"""`edgekd bench` on real peers, with files that edgekd did not make: answers as here, figures that hold together."""

import contextlib
import fcntl
import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from edgekd.bench.foreign import SAMPLES
from edgekd.bench.protocol import PROTOCOLS
from edgekd.device import load_device
from edgekd.runners.setup import setup
from tests.conftest import Run
from tests.devices.arm_root import ArmRoot
from tests.devices.conftest import Commands, finished
from tests.runners.peers import needed

ENOUGH_FOR_P90 = 100
BRIEF = ("--protocol", "brief", "--json")
FORMATS = ("tflite", "onnx")
LOOK_SECONDS, START_SECONDS = 0.02, 120.0
ROUNDING = 1e-5
"""How far outputs of about 1 are off, added up in another order."""


@pytest.fixture
def file(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(f"{request.param}_file")
    return found


def reported(run: Run) -> dict[str, Any]:
    """The document of a run that came to its end: a machine that is not quiet makes it not valid, and no more."""
    assert run.code in (0, 7), run.stderr
    document: dict[str, Any] = run.document
    assert document["valid"] is (run.code == 0)
    assert bool(document["why_not_valid"]) is (run.code == 7)
    if run.code == 7:
        assert run.stderr == f"edgekd: not valid: {document['why_not_valid']}\n"
    return document


def assert_holds_together(document: dict[str, Any], file: Path, steps: float = 0.0) -> None:
    """steps: how far an integer output may be off."""
    likeness = document["outputs"]
    assert likeness["alike"]
    assert likeness["samples"] == SAMPLES
    assert likeness["largest"] <= (steps if file.suffix == ".tflite" else ROUNDING)
    assert document["bytes"] == file.stat().st_size
    p50, p90 = document["p50_ms"], document["p90_ms"]
    assert 0 < p50["low"] <= p50["value"] <= p50["high"]
    if document["samples"] >= ENOUGH_FOR_P90:
        assert p50["value"] <= p90["value"]
        assert p90["low"] <= p90["value"] <= p90["high"]
    else:
        assert p90 is None
    assert document["samples"] >= PROTOCOLS["brief"].runs
    assert document["load_ms"] > 0
    assert document["peak_memory_bytes"] > document["base_memory_bytes"] > 1e6
    assert document["energy"]["kind"] == "not measured"
    assert document["energy"]["joules_per_inference"] is None


@pytest.mark.parametrize("file", FORMATS, indirect=True)
def test_a_board_behind_ssh(file: Path, behind_ssh: ArmRoot, edgekd: Commands) -> None:
    document = reported(edgekd("bench", file, "--device", behind_ssh.profile, *BRIEF))
    assert_holds_together(document, file)
    assert (document["device"], document["timing"], document["memory_contains"]) == ("board", "emulated", "")
    assert (document["machine"]["machine"], document["machine"]["cpu"]) == ("aarch64", "ARM part 0xd08")
    assert ("ai-edge-litert" if file.suffix == ".tflite" else "onnxruntime") in document["harness"]
    assert document["state_before"]["governor"] is None
    assert behind_ssh.held() == []
    assert {place.name for place in behind_ssh.home.iterdir()} == {"agent", "lib", "lock", "run"}


@pytest.mark.parametrize("name", ["local", "emulated-arm64", "emulated-board"])
@pytest.mark.parametrize("file", FORMATS, indirect=True)
def test_a_device_that_comes_along(file: Path, name: str, edgekd: Commands) -> None:
    profile = load_device(name)
    needed(lambda: setup(profile))
    document = reported(edgekd("bench", file, "--device", name, *BRIEF))
    assert_holds_together(document, file)
    assert (document["device"], document["timing"]) == (name, profile.timing)
    assert profile.architecture in (None, document["machine"]["machine"])
    assert document["memory_contains"] == ("the emulator" if name == "emulated-arm64" else "")


def test_a_board_of_32_bits(tflite_file: Path, edgekd: Commands) -> None:
    needed(lambda: setup(load_device("emulated-armhf")))
    document = reported(edgekd("bench", tflite_file, "--device", "emulated-armhf", *BRIEF))
    assert_holds_together(document, tflite_file, steps=1.0)
    assert document["machine"]["machine"] == "armv7l"
    assert "tflite-runtime" in document["harness"]


def test_two_at_once_take_turns(onnx_file: Path, edgekd: Commands) -> None:
    home, seen = edgekd.cache / "device", set()
    home.mkdir(mode=0o700, exist_ok=True)
    with (home / "lock").open("a") as ours:
        fcntl.flock(ours, fcntl.LOCK_EX)
        both = [edgekd.start("bench", onnx_file, *BRIEF) for _ in range(2)]
        end = time.monotonic() + START_SECONDS
        while len(list(home.glob("run/*/job.txt"))) < len(both):
            assert time.monotonic() < end
            time.sleep(LOOK_SECONDS)
    while any(one.poll() is None for one in both):
        for file in home.glob("run/*/out0-0.bin"):
            with contextlib.suppress(FileNotFoundError):
                found = file.stat()
                seen.add((found.st_size, found.st_mtime))
        time.sleep(LOOK_SECONDS)
    documents = [reported(finished(one)) for one in both]
    for document in documents:
        assert_holds_together(document, onnx_file)
    # Each run answers to all samples, one after the other, and then is timed.
    whole = max(size for size, _ in seen)
    answered = sorted(moment for size, moment in seen if size == whole)
    assert len(answered) == sum(document["attempts"] for document in documents)
    pauses = [after - before for before, after in itertools.pairwise(answered)]
    assert min(pauses) >= PROTOCOLS["brief"].seconds
    assert list(home.glob("run/*/")) == []
