"""The process that is measured: loads one model, runs it by a protocol, writes what it saw.

Run as `python -m edgekd.bench.harness JOB`, where JOB is a JSON file with `model`, `inputs` (an .npz with arrays
`arr_0`, `arr_1`, …, or null for generated ones), `runs`, `seconds`, `warmup_runs`, `warmup_seconds`, `threads` and
`out`, a folder. It writes `samples.npy` (nanoseconds, uint64, in order) and `result.json` there.
"""

import importlib
import json
import sys
import time
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.errors import EdgekdError
from edgekd.runtimes import open_session
from edgekd.runtimes.session import Session, TensorSpec

MODULES = {
    ".tflite": ("ai_edge_litert.interpreter", "edgekd.runtimes.litert"),
    ".onnx": ("onnxruntime", "onnx", "edgekd.runtimes.onnxruntime"),
    ".ort": ("onnxruntime", "edgekd.runtimes.onnxruntime", "edgekd.readers.ort"),
    ".xml": ("openvino", "edgekd.runtimes.openvino", "edgekd.readers.openvino"),
}
"""What a file's runtime and edgekd's own checks import, by the file's suffix: no part of the model's memory."""


def generated_inputs(specs: list[TensorSpec]) -> list[np.ndarray]:
    """Inputs for a model that nothing is known about: seeded noise, and zeros for what may be an index."""
    random = np.random.default_rng(0)

    def one(spec: TensorSpec) -> np.ndarray:
        if spec.dtype in ("int8", "uint8"):
            limits = np.iinfo(spec.dtype)
            return random.integers(limits.min, limits.max, spec.shape, dtype=spec.dtype, endpoint=True)
        if spec.dtype.startswith("float"):
            return random.normal(size=spec.shape).astype(spec.dtype)
        return np.zeros(spec.shape, dtype=spec.dtype)

    return [one(spec) for spec in specs]


def memory(field: str) -> int:
    """A field of this process's status in bytes: VmRSS (now) or VmHWM (peak)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def measure(job: dict[str, Any]) -> dict[str, Any]:
    model = Path(job["model"])
    for module in MODULES.get(model.suffix, ()):
        importlib.import_module(module)
    base = memory("VmRSS")
    session = open_session(model, job["threads"])
    feed(session, job["inputs"])
    repeat(session, job["warmup_runs"], job["warmup_seconds"])
    peak = memory("VmHWM")  # before the run times fill memory of their own
    samples = repeat(session, job["runs"], job["seconds"])
    np.save(Path(job["out"]) / "samples.npy", np.frombuffer(samples, dtype=np.uint64))
    return {"load_ns": session.load_ns, "base_memory_bytes": base, "peak_memory_bytes": peak}


def feed(session: Session, inputs: str | None) -> None:
    """Give a session the inputs of an .npz file, or generated ones."""
    if inputs is None:
        session.set_inputs(generated_inputs(session.inputs))
        return
    with np.load(inputs) as arrays:
        session.set_inputs([arrays[f"arr_{position}"] for position in range(len(session.inputs))])


def repeat(session: Session, runs: int, seconds: float) -> "array[int]":
    """Run a session until there were this many runs and this many seconds; each run's nanoseconds, in order."""
    samples = array("Q")
    clock, invoke, keep = time.perf_counter_ns, session.invoke, samples.append
    end = clock() + int(seconds * 1e9)
    while len(samples) < runs or clock() < end:
        started = clock()
        invoke()
        keep(clock() - started)
    return samples


if __name__ == "__main__":
    order = json.loads(Path(sys.argv[1]).read_text())
    try:
        outcome = measure(order)
    except EdgekdError as error:
        outcome = {"error": str(error), "exit_code": error.exit_code}
    (Path(order["out"]) / "result.json").write_text(json.dumps(outcome))
