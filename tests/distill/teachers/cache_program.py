"""Caches a slow program's answers: `cache_program OUT SCRATCH LOG MODE`, for tests that kill it or run it twice."""

import os
import sys
from pathlib import Path

from edgekd.distill.teacher_config import Command
from edgekd.distill.teachers.steps import cache_outputs
from edgekd.processes import join
from edgekd.step import Work
from edgekd.step_configs import TeacherConfig
from tests.distill.teachers import answering_program
from tests.distill.teachers.small import IMAGE_VIEWS, SEED, data_of, made


def cache(out: Path, scratch: Path | None, log: Path, mode: str) -> None:
    for folder in (out, log):
        folder.mkdir(exist_ok=True)
    (out / "test.npy").touch()
    teacher = made(out, {}, "teacher")
    argv = (sys.executable, str(answering_program.__file__), mode, str(log))
    config = TeacherConfig(Command(kind="command", argv=argv, version="1"), None)
    inputs = {"data": data_of(IMAGE_VIEWS), "teacher": teacher}
    work = out / "out"
    work.mkdir()
    cache_outputs(Work(config, inputs, work, SEED, scratch=scratch))


if __name__ == "__main__":
    if "MASTER_ADDR" in os.environ:
        join()
    cache(*(Path(argument) for argument in sys.argv[1:4]), sys.argv[4])
