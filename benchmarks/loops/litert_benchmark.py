"""ai-edge-litert's own benchmark script, `litert-benchmark`, with its rounding to 10 microseconds taken out."""

import contextlib
import sys

from ai_edge_litert.tools import benchmark_litert_model as script

from benchmarks.loops.timing import wait


def main(file: str, runs: str) -> None:
    script.round = lambda number, digits: number
    sys.argv = ["", "--model", file, "--num_runs", runs, "--warmup_runs", str(int(runs) // 2), "--num_threads", "1"]
    wait()
    with contextlib.redirect_stdout(sys.stderr):
        results = script.run_benchmark(script.parse_args())
    print(results["latency"]["median_ms"] * 1e6)


if __name__ == "__main__":
    main(*sys.argv[1:])
