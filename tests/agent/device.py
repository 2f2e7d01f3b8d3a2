"""The agent built for this machine, its jobs and what it tells."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgekd.dependencies import apart
from edgekd.runners.agent import MACHINES, build_agent

PLACES = {
    "ai-edge-litert": ("ai_edge_litert", "libLiteRt.so"),
    "onnxruntime": ("onnxruntime", "capi/libonnxruntime.so.*"),
    "openvino": ("openvino", "libs/libopenvino_c.so.*"),
}
TFLITE_RUNTIME = "lib/python3.*/site-packages/tflite_runtime/_pywrap_tensorflow_interpreter_wrapper.so"

HERE = next(name for name, told in MACHINES.items() if told == platform.machine())

Event = dict[str, Any]


@dataclass(frozen=True)
class Told:
    """A finished run of the agent: its exit code and its events."""

    code: int
    events: list[Event]

    def of(self, name: str) -> list[Event]:
        return [event for event in self.events if event["event"] == name]

    def one(self, name: str) -> Event:
        (event,) = self.of(name)
        return event

    @property
    def error(self) -> str:
        """The one line of a run that failed; nothing follows it."""
        assert self.events[-1]["event"] == "error"
        message = self.events[-1]["message"]
        assert message
        assert "\n" not in message
        return str(message)

    @property
    def names(self) -> list[str]:
        """The events in order, each name once for those that follow each other."""
        names = [event["event"] for event in self.events]
        return [name for name, before in zip(names, [None, *names[:-1]], strict=True) if name != before]


@cache
def agent() -> Path:
    return build_agent(HERE)


@cache
def library(runtime: str) -> Path:
    if runtime == "tflite-runtime":
        return next(apart().glob(TFLITE_RUNTIME))
    package, pattern = PLACES[runtime]
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return next(Path(spec.origin).parent.glob(pattern))


def section(runtime: str, model: Path | str, inputs: Sequence[str] = (), outputs: Sequence[str] = ()) -> str:
    lines = [f"model {model}", f"runtime {runtime}", f"library {library(runtime)}"]
    return "\n".join([*lines, *(f"input {name}" for name in inputs), *(f"output {name}" for name in outputs)]) + "\n"


def write_job(folder: Path, *sections: str, **settings: float | str) -> Path:
    file = folder / "job"
    lines = "".join(f"{key} {value}\n" for key, value in settings.items())
    file.write_text(f"edgekd-job 1\n{lines}{''.join(sections)}")
    return file


def run_job(folder: Path, *sections: str, root: Path | None = None, **settings: float | str) -> Told:
    return told("run", str(write_job(folder, *sections, **settings)), root=root)


def told(*arguments: str, root: Path | None = None) -> Told:
    done = subprocess.run(
        [str(agent()), *arguments], stdout=subprocess.PIPE, check=False, env=environment(root), timeout=60
    )
    return Told(done.returncode, [json.loads(line) for line in done.stdout.splitlines()])


def environment(root: Path | None) -> Mapping[str, str]:
    return os.environ | ({} if root is None else {"AGENT_ROOT": str(root)})
