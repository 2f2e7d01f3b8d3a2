"""Set-up of emulated devices: all that they need is there afterwards, and a second time costs nothing."""

import subprocess
from typing import Any

import pytest

from edgekd.device import load_device
from edgekd.runners import emulator
from edgekd.runners.libraries import libraries, runtimes
from edgekd.runners.setup import setup
from tests.runners.peers import needed


@pytest.mark.parametrize("name", ["emulated-arm64", "emulated-armhf", "emulated-board", "emulated-board-icount"])
def test_a_device_is_set_up_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = load_device(name)
    needed(lambda: setup(profile))
    told: list[tuple[int, int, str]] = []

    def refuse(command: list[str], *_: Any, **__: Any) -> Any:
        raise AssertionError(f"started {command}")

    monkeypatch.setattr(subprocess, "run", refuse)
    setup(profile, lambda done, total, note="": told.append((done, total, note)))
    total = len(told) - 1
    assert [entry[:2] for entry in told] == [(done, total) for done in range(total + 1)]
    assert profile.architecture is not None
    assert {note for _, _, note in told} >= set(runtimes(profile.architecture))
    for runtime in runtimes(profile.architecture):
        assert all(file.is_file() for file in libraries(runtime, profile.architecture))


def test_what_each_architecture_runs() -> None:
    assert runtimes("armv7") == ["tflite-runtime"]
    assert set(runtimes("aarch64")) == {"ai-edge-litert", "onnxruntime", "openvino", "tflite-runtime"}
    assert set(runtimes("x86_64")) == {"ai-edge-litert", "onnxruntime", "openvino"}


def test_the_processors_of_the_profiles_are_those_of_their_architecture() -> None:
    for name in ("emulated-arm64", "emulated-armhf"):
        profile = load_device(name)
        assert emulator.settings_of(profile).architecture == profile.architecture
