"""A teacher program for tests: `answering_program.py MODE FOLDER`. It leaves a file in the folder for each batch."""

import io
import sys
import time
from pathlib import Path

import numpy as np


def main(mode: str, folder: Path) -> None:
    batches = 0
    while size := int.from_bytes(sys.stdin.buffer.read(8), "little"):
        batch = np.load(io.BytesIO(sys.stdin.buffer.read(size)), allow_pickle=False)
        (folder / f"batch-{time.time_ns()}").write_text(str(batch.shape))
        numbers = batch.reshape(len(batch), -1)[:, :3].astype(np.float64)
        batches += 1
        if mode == "late" and batches == 2:
            time.sleep(60)
        if mode == "slow":
            time.sleep(0.3)
        if mode == "dies" and batches == 2:
            raise SystemExit("out of memory")
        if mode == "few":
            numbers = numbers[1:]
        if mode == "nan":
            numbers[2, 0] = np.nan
        if mode == "chatty":
            print("hello from the model, I am glad to be here")
        answer = io.BytesIO()
        np.save(answer, numbers)
        content = answer.getvalue()
        if mode == "cut":
            content = content[:-5]
        if mode == "words":
            content = b"no array"
        sys.stdout.buffer.write(len(content).to_bytes(8, "little") + content)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
