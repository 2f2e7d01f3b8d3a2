"""ONNX Runtime in Python; with a third argument `bound`, with inputs and outputs that stay where they are."""

import sys

import numpy as np
import onnxruntime

from benchmarks.loops.timing import noise, tell_median, wait

DTYPES = {"tensor(float)": "float32", "tensor(int8)": "int8", "tensor(uint8)": "uint8"}


def main(file: str, runs: str, way: str = "") -> None:
    wait()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    feed = {one.name: noise(one.shape, np.dtype(DTYPES[one.type])) for one in session.get_inputs()}
    if way != "bound":
        tell_median(lambda: session.run(None, feed), int(runs))
        return
    binding = session.io_binding()
    for name, value in feed.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(value))
    for one in session.get_outputs():
        place = np.zeros(one.shape, DTYPES[one.type])
        binding.bind_ortvalue_output(one.name, onnxruntime.OrtValue.ortvalue_from_numpy(place))
    tell_median(lambda: session.run_with_iobinding(binding), int(runs))


if __name__ == "__main__":
    main(*sys.argv[1:])
