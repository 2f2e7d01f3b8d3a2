"""OpenVINO's `benchmark_app`, one request at a time, in float32 as the agent computes."""

import re
import subprocess
import sys
from pathlib import Path

ONE_THREAD = ["-api", "sync", "-hint", "none", "-nthreads", "1", "-nstreams", "1", "-infer_precision", "f32"]
NANOSECONDS = {"us": 1e3, "ms": 1e6}


def main(file: str, runs: str) -> None:
    program = Path(sys.executable).with_name("benchmark_app")
    done = subprocess.run(
        [program, "-m", file, "-niter", runs, *ONE_THREAD], capture_output=True, text=True, check=True
    )
    found = re.search(r"Median: +([\d.]+) (us|ms)", done.stdout)
    assert found is not None, done.stdout
    print(float(found[1]) * NANOSECONDS[found[2]])


if __name__ == "__main__":
    main(*sys.argv[1:])
