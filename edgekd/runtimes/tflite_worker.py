"""Runs a .tflite file in tflite-runtime: a program for that runtime's own environment, which has no edgekd in it.

    python tflite_worker.py MODEL FOLDER THREADS

FOLDER/inputs.npz, where it is there, holds an array of samples for each input of the model, in order; they are run one
by one. Written there: outputs.npz, alike, and answer.json, which lists the model's inputs, outputs and operations, or
says what is `missing` (a package) or why the model is `refused` (in the runtime's words).
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def main() -> None:
    model, folder, threads = sys.argv[1:]
    try:
        answer = answer_for(model, Path(folder), int(threads))
    except ImportError as error:
        answer = {"missing": str(error)}
    except (ValueError, RuntimeError) as error:
        answer = {"refused": str(error)}
    (Path(folder) / "answer.json").write_text(json.dumps(answer))


def answer_for(model: str, folder: Path, threads: int) -> dict[str, Any]:
    from tflite_runtime.interpreter import Interpreter  # type: ignore[import-not-found]

    interpreter = Interpreter(model, num_threads=threads)
    interpreter.allocate_tensors()
    if (folder / "inputs.npz").exists():
        run(interpreter, folder)
    return {
        "inputs": [described(detail) for detail in interpreter.get_input_details()],
        "outputs": [described(detail) for detail in interpreter.get_output_details()],
        "ids": [int(detail["index"]) for detail in interpreter.get_input_details() if "int32" in str(detail["dtype"])],
        "nodes": [
            {"op_name": node["op_name"], "inputs": plain(node["inputs"]), "outputs": plain(node["outputs"])}
            for node in interpreter._get_ops_details()
        ],
    }


def run(interpreter: Any, folder: Path) -> None:
    import numpy as np

    with np.load(folder / "inputs.npz", allow_pickle=False) as arrays:
        samples = [arrays[name] for name in arrays.files]
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    results = [np.empty((len(samples[0]), *detail["shape"][1:]), dtype=detail["dtype"]) for detail in outputs]
    for position in range(len(samples[0])):
        for detail, array in zip(inputs, samples, strict=True):
            interpreter.set_tensor(detail["index"], array[position][None])
        interpreter.invoke()
        for detail, result in zip(outputs, results, strict=True):
            result[position] = interpreter.get_tensor(detail["index"])[0]
    np.savez(folder / "outputs.npz", *results)


def described(detail: dict[str, Any]) -> list[Any]:
    import numpy as np

    scale, zero_point = detail["quantization"]
    return [detail["name"], plain(detail["shape"]), np.dtype(detail["dtype"]).name, float(scale), int(zero_point)]


def plain(numbers: Iterable[Any]) -> list[int]:
    return [int(number) for number in numbers]


if __name__ == "__main__":
    main()
