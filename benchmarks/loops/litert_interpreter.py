"""LiteRT's older interface for Python."""

import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from benchmarks.loops.timing import noise, tell_median, wait


def main(file: str, runs: str) -> None:
    wait()
    interpreter = Interpreter(model_path=file, num_threads=1)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], noise(detail["shape"], np.dtype(detail["dtype"])))
    tell_median(interpreter.invoke, int(runs))


if __name__ == "__main__":
    main(*sys.argv[1:])
