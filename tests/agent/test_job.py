"""Jobs that are wrong are refused with one line, and the reader of jobs stands anything."""

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from edgekd.runners.agent import SOURCES
from tests.agent.device import told

MODEL = "model m.onnx\nruntime onnxruntime\nlibrary l.so\n"
LAST_LINE = 6
CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.job"))
READERS = ("job.c", "tflite_file.c", "utf8.c")
ROUNDS = 300_000


def refused(content: bytes, folder: Path) -> str:
    (folder / "job").write_bytes(content)
    run = told("run", str(folder / "job"))
    assert run.code == 2
    assert len(run.events) == 1
    return run.error


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("threads 0", "not from 1 to 64"),
        ("threads 65", "not from 1 to 64"),
        ("threads -1", "whole number"),
        ("threads 1 ", "whole number"),
        ("threads 99999999999999999999", "whole number"),
        ("threads", "without a value"),
        ("threads 1\nthreads 1", "twice"),
        ("runs 0", "not from 1"),
        ("seconds 1e3", "number of seconds"),
        ("seconds .5", "number of seconds"),
        ("seconds 1.", "number of seconds"),
        ("seconds nan", "number of seconds"),
        ("seconds 86401", "above 86400"),
        ("swapped 2", "not from 0 to 1"),
        ("Threads 1", "unknown key 'Threads'"),
        ("runtime ai-edge-litert", "unknown key 'runtime'"),
        ("swapped 1", "for two models"),
        ("sample /etc/passwd", "no path below /sys"),
        ("sample /sys/../etc/passwd", "no path below /sys"),
        ("\n".join(["sample /sys/a"] * 17), "more than 16"),
        ("", "without a value"),
    ],
)
def test_a_wrong_line_is_named(line: str, reason: str, tmp_path: Path) -> None:
    error = refused(f"edgekd-job 1\n{line}\n{MODEL}".encode(), tmp_path)
    assert reason in error
    assert error.startswith("job line ")
    assert int(error.removeprefix("job line ").split(":")[0]) in (2 + line.count("\n"), LAST_LINE)


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ("", "no model"),
        ("model m\n", "without a runtime"),
        ("model m\nruntime ai-edge-litert\n", "without a library"),
        ("model m\nruntime caffe\nlibrary l\n", "unknown runtime 'caffe'"),
        ("model \nruntime ai-edge-litert\nlibrary l\n", "names nothing"),
        (f"model {'m' * 5000}\nruntime ai-edge-litert\nlibrary l\n", "longer than 4095"),
        (MODEL * 3, "more than 2 models"),
        (MODEL + "threads 2\n", "unknown key 'threads' of a model"),
        (MODEL + "library l\n", "twice"),
        (MODEL + "input i\n" * 17, "more than 16"),
    ],
)
def test_a_wrong_model_is_named(sections: str, reason: str, tmp_path: Path) -> None:
    assert reason in refused(f"edgekd-job 1\n{sections}".encode(), tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not 'edgekd-job 1'"),
        (b"edgekd-job 2\n", "not 'edgekd-job 1'"),
        (b"edgekd-job 1\r\n" + MODEL.encode(), "not 'edgekd-job 1'"),
        (b"edgekd-job 1\nlock \xff\n" + MODEL.encode(), "not text"),
        (b"edgekd-job 1\nlock \xed\xa0\x80\n" + MODEL.encode(), "not text"),
        (b"edgekd-job 1\nlock a\x00b\n" + MODEL.encode(), "not text"),
        (b"edgekd-job 1\n" + b"x" * 70000, "longer than 65536"),
    ],
)
def test_what_is_no_job_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    assert reason in refused(content, tmp_path)


def test_a_job_that_is_not_there_and_a_wrong_command_are_refused(tmp_path: Path) -> None:
    for arguments in (("run", str(tmp_path / "gone")), ("run",), (), ("walk", "x"), ("rates", "-1"), ("rates", "x")):
        run = told(*arguments)
        assert run.code == 2
        assert run.error


def test_mutated_jobs_and_models_break_no_reader(int8_file: Path, tmp_path: Path) -> None:
    """Under the address and undefined-behaviour sanitizers where a compiler has both, else under the latter alone;
    each input ends at a page that nothing may touch.
    """
    program = compiled(tmp_path)
    for reader, files in (("job", CORPUS), ("tflite", [int8_file])):
        for seed in ("1", "2"):
            done = subprocess.run(
                [str(program), reader, seed, str(ROUNDS), *map(str, files)], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            taken = int(done.stdout.split()[0])
            assert ROUNDS / 1000 < taken < ROUNDS


def compiled(folder: Path) -> Path:
    program = folder / "fuzz"
    sources = [str(Path(__file__).parent / "fuzz.c"), *(str(SOURCES / name) for name in READERS)]
    common = ["-g", "-O1", "-std=c11", "-D_GNU_SOURCE", f"-I{SOURCES}", "-fno-sanitize-recover=all"]
    commands = [["gcc", *common, "-fsanitize=address,undefined"]] if shutil.which("gcc") else []
    if find_spec("ziglang") is not None:
        commands.append([sys.executable, "-m", "ziglang", "cc", *common, "-fsanitize=undefined"])
    for command in commands:
        if subprocess.run([*command, "-o", str(program), *sources], capture_output=True, check=False).returncode == 0:
            return program
    pytest.skip("no C compiler with sanitizers")
