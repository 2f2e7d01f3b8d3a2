"""OpenVINO's `benchmark_app`, one request at a time, with its rounding taken out.

In float32 as the agent computes, and fed what the file takes: by itself it feeds bytes to what looks like a picture and
measures their conversion too.
"""

import contextlib
import sys

from benchmarks.loops.timing import wait

with contextlib.redirect_stdout(sys.stderr):
    from openvino.tools.benchmark import main as program
    from openvino.tools.benchmark.benchmark import Benchmark

ONE_THREAD = ["-api", "sync", "-hint", "none", "-nthreads", "1", "-nstreams", "1"]
AS_THE_AGENT = ["-infer_precision", "f32", "-ip", "f32"]


class Waiting(Benchmark):  # type: ignore[misc]
    """Waits before it reads the model, and keeps the median that it found, in milliseconds."""

    median_ms = 0.0

    def read_model(self, file: str) -> object:
        wait()
        return super().read_model(file)

    def main_loop(self, *arguments: object) -> tuple[float, ...]:
        found: tuple[float, ...] = super().main_loop(*arguments)
        Waiting.median_ms = found[1]
        return found


def main(file: str, runs: str) -> None:
    program.Benchmark = Waiting
    sys.argv = ["", "-m", file, "-niter", runs, *ONE_THREAD, *AS_THE_AGENT]
    program.main()
    print(Waiting.median_ms * 1e6)


if __name__ == "__main__":
    main(*sys.argv[1:])
