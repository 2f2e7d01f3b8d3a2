"""Processes of one launch, started as torchrun starts them, but without one that ends the others."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import Run

ROOT = Path(__file__).resolve().parents[1]


def launch(module: str, arguments: Sequence[str], count: int = 1) -> list[Run]:
    """Run a module in `count` processes, on one thread each; what came of them, by rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(count):
        several = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", **(several if count > 1 else {})},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    outputs = [process.communicate(timeout=300) for process in started]
    return [Run(process.returncode, *output) for process, output in zip(started, outputs, strict=True)]
