"""tflite-runtime: run a .tflite file as a 32-bit ARM board does.

Its last release wants Python 3.11 or older and numpy 1, so it lives in an environment of its own and is started there.
"""

import json
import subprocess
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.dependencies import apart, apart_command
from edgekd.errors import DependencyError, DeviceError
from edgekd.readers.tflite import check_file
from edgekd.runtimes import tflite_worker
from edgekd.runtimes.litert import placement_of
from edgekd.runtimes.session import Placement, Session, TensorSpec

START_SECONDS = 60.0
SAMPLE_SECONDS = 2.0


class TFLiteRuntimeSession(Session):
    """A .tflite file that tflite-runtime has taken; images are channels last. Each run is a process of its own.

    Raises UsageError if the file is missing or not a TFLite model, DependencyError if the runtime's environment is not
    there, DeviceError if the runtime refuses the file, crashes or takes too long.
    """

    channels_last = True

    def __init__(self, file: Path, threads: int = 1) -> None:
        check_file(file)
        self._file, self._threads = file, threads
        self._values: list[np.ndarray] = []
        self._results: list[np.ndarray] = []
        answer, _ = self._work([])
        self.inputs = [_spec(entry) for entry in answer["inputs"]]
        self.outputs = [_spec(entry) for entry in answer["outputs"]]
        self.load_ns = 0  # it has a process of its own
        self._nodes, self._ids = answer["nodes"], set(answer["ids"])

    def invoke(self) -> None:
        _, self._results = self._work(self._values)

    def set_inputs(self, values: Sequence[np.ndarray]) -> None:
        self._values = list(values)

    def get_outputs(self) -> list[np.ndarray]:
        return self._results

    def run(self, samples: np.ndarray) -> np.ndarray:
        return self._work([samples])[1][0]

    def placement(self) -> Placement:
        return placement_of(self._nodes, self._ids)

    def _work(self, inputs: Sequence[np.ndarray]) -> tuple[dict[str, Any], list[np.ndarray]]:
        """What the worker says of the file, and its outputs for these samples, one array (N, ...) for each input."""
        seconds = START_SECONDS + SAMPLE_SECONDS * sum(len(array) for array in inputs[:1])
        with tempfile.TemporaryDirectory(prefix="edgekd-") as place:
            folder = Path(place)
            if inputs:
                np.savez(folder / "inputs.npz", *inputs)
            self._start(folder, seconds)
            try:
                answer: dict[str, Any] = json.loads((folder / "answer.json").read_text())
                outputs = _arrays(folder / "outputs.npz") if inputs and "nodes" in answer else []
            except (OSError, ValueError, zipfile.BadZipFile) as error:
                raise DeviceError(f"{self._file}: tflite-runtime gave no answer that can be read: {error}") from error
        if "missing" in answer:
            raise DependencyError(f"tflite-runtime does not start ({answer['missing']}); run: {apart_command()}")
        if "refused" in answer:
            reason = " ".join(answer["refused"].split()) or "no reason given"
            raise DeviceError(f"{self._file}: tflite-runtime refuses it: {reason}")
        return answer, outputs

    def _start(self, folder: Path, seconds: float) -> None:
        python = apart() / "bin" / "python"
        if not python.exists():
            raise DependencyError(f"tflite-runtime has no environment at {apart()}; run: {apart_command()}")
        # Isolated: the worker sees nothing of this environment, and no module that lies beside it.
        command = [str(python), "-I", tflite_worker.__file__, str(self._file.resolve()), str(folder)]
        try:
            done = subprocess.run([*command, str(self._threads)], capture_output=True, timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise DeviceError(f"{self._file}: tflite-runtime was stopped after {seconds:.0f} s") from error
        except OSError as error:
            raise DependencyError(f"{python} does not start ({error.strerror}); run: {apart_command()}") from error
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").split("\n")
            reason = next((line.strip() for line in reversed(said) if line.strip()), "nothing said")
            raise DeviceError(f"{self._file}: tflite-runtime ended with {done.returncode}: {reason}")


def _spec(entry: Sequence[Any]) -> TensorSpec:
    name, shape, dtype, scale, zero_point = entry
    return TensorSpec(name, tuple(shape), dtype, scale, zero_point)


def _arrays(file: Path) -> list[np.ndarray]:
    with np.load(file, allow_pickle=False) as arrays:
        return [arrays[name] for name in arrays.files]
