"""What the agent brings back from a model, against the runtimes' own Python and against sums done by hand."""

import itertools
import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from edgekd.dependencies import apart
from edgekd.runners import agent as build
from edgekd.runners.agent import compile_program
from edgekd.runtimes import open_session
from edgekd.runtimes.tflite_runtime import TFLiteRuntimeSession
from edgekd.target import Format, Precision
from tests.agent.device import HERE, agent, run_job, section, write_job
from tests.agent.models import difference_onnx, difference_tflite, numbers
from tests.export.small import exported, samples

needs_environment = pytest.mark.skipif(not apart().exists(), reason=f"tflite-runtime is not installed at {apart()}")
RUNTIMES: dict[str, Format] = {"ai-edge-litert": "tflite", "onnxruntime": "onnx", "openvino": "openvino"}
CASES = list(itertools.product(RUNTIMES, ("int8", "float32")))
CALLS = {
    "ai-edge-litert": "LiteRtCreateModelFromFile",
    "onnxruntime": "CreateSession",
    "openvino": "ov_core_compile_model",
}
ORDER = ["state", "base_memory", "load", "tensor", "outputs", "phase", "memory", "runs", "state", "end"]


@pytest.mark.parametrize(("runtime", "precision"), CASES)
def test_outputs_are_those_of_the_runtimes_own_python(runtime: str, precision: Precision, tmp_path: Path) -> None:
    file = exported(tmp_path, RUNTIMES[runtime], precision=precision)
    session = open_session(file, 1)
    encoded = session.encode(samples(20).numpy())
    encoded.tofile(tmp_path / "in0.bin")
    expected = session.run(encoded)
    told = run_job(tmp_path, section(runtime, file.name, ["in0.bin"], ["out0.bin"]))
    assert told.code == 0
    found = np.fromfile(tmp_path / "out0.bin", expected.dtype).reshape(expected.shape)
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(found)) > 20
    ends = {event["kind"]: event for event in told.of("tensor")}
    assert tuple(ends["input"]["shape"]) == session.inputs[0].shape
    assert ends["input"]["dtype"] == session.inputs[0].dtype
    assert ends["input"]["bytes"] == encoded[:1].nbytes
    assert ends["output"]["dtype"] == expected.dtype.name
    assert told.one("outputs") == {"event": "outputs", "model": 0, "samples": 20}
    assert told.names == ORDER


@needs_environment
def test_tflite_runtime_runs_without_a_python(int8_file: Path, tmp_path: Path) -> None:
    session = TFLiteRuntimeSession(int8_file)
    encoded = session.encode(samples(20).numpy())
    encoded.tofile(tmp_path / "in0.bin")
    expected = session.run(encoded)
    told = run_job(tmp_path, section("tflite-runtime", int8_file, ["in0.bin"], ["out0.bin"]), threads=2)
    assert told.code == 0
    np.testing.assert_array_equal(np.fromfile(tmp_path / "out0.bin", np.int8).reshape(expected.shape), expected)
    assert [event["name"] for event in told.of("tensor")] == ["input", "output"]


@pytest.mark.parametrize(
    "runtime", ["ai-edge-litert", "onnxruntime", pytest.param("tflite-runtime", marks=needs_environment)]
)
def test_inputs_go_in_in_the_files_own_order(runtime: str, tmp_path: Path) -> None:
    model = difference_onnx(tmp_path) if runtime == "onnxruntime" else difference_tflite(tmp_path)
    a, b = numbers(tmp_path, "a.bin", 7, seed=1), numbers(tmp_path, "b.bin", 7, seed=2)
    told = run_job(tmp_path, section(runtime, model.name, ["a.bin", "b.bin"], ["less.bin"]))
    assert told.code == 0
    np.testing.assert_array_equal(np.fromfile(tmp_path / "less.bin", np.float32).reshape(7, 5), a - b)
    assert [event["name"] for event in told.of("tensor")] == ["a", "b", "less"]


@pytest.mark.parametrize(
    "runtime", ["ai-edge-litert", "onnxruntime", "openvino", pytest.param("tflite-runtime", marks=needs_environment)]
)
def test_a_batch_that_the_file_leaves_open_is_one(runtime: str, tmp_path: Path) -> None:
    tflite = runtime in ("ai-edge-litert", "tflite-runtime")
    model = difference_tflite(tmp_path, open_batch=True) if tflite else difference_onnx(tmp_path, batch="n")
    a, b = numbers(tmp_path, "a.bin", 3, seed=1), numbers(tmp_path, "b.bin", 3, seed=2)
    if runtime == "openvino":
        import openvino

        openvino.save_model(openvino.convert_model(str(model)), str(tmp_path / "less.xml"), compress_to_fp16=False)
        model = tmp_path / "less.xml"
    told = run_job(tmp_path, section(runtime, model.name, ["a.bin", "b.bin"], ["less.bin"]))
    assert told.code == 0
    assert {tuple(event["shape"]) for event in told.of("tensor")} == {(1, 5)}
    np.testing.assert_array_equal(np.fromfile(tmp_path / "less.bin", np.float32).reshape(3, 5), a - b)


@needs_environment
def test_the_arena_holds_what_the_model_takes_and_gives(tmp_path: Path) -> None:
    told = run_job(tmp_path, section("tflite-runtime", difference_tflite(tmp_path).name))
    assert 3 * 20 <= told.one("memory")["arena_bytes"] <= 3 * 64  # three tensors of 20 bytes, each aligned to 64
    assert run_job(tmp_path, section("ai-edge-litert", "less.tflite")).one("memory")["arena_bytes"] is None


def test_a_name_of_any_characters_is_only_a_name(tmp_path: Path) -> None:
    folder = tmp_path / "a 'b' \"c\"; $(touch x) é"
    folder.mkdir()
    difference_onnx(folder).rename(folder / "mo del;'.onnx")
    a, b = numbers(folder, "a a.bin", 1, seed=1), numbers(folder, "b'.bin", 1, seed=2)
    assert run_job(folder, section("onnxruntime", "mo del;'.onnx", ["a a.bin", "b'.bin"], ['"out".bin'])).code == 0
    np.testing.assert_array_equal(np.fromfile(folder / '"out".bin', np.float32).reshape(1, 5), a - b)
    assert len(list(folder.iterdir())) == 5


def test_outputs_that_do_not_fit_are_told(tmp_path: Path) -> None:
    told = run_job(tmp_path, section("onnxruntime", difference_onnx(tmp_path).name, outputs=["/dev/full"]))
    assert told.code == 1
    assert "No space left" in told.error


def test_without_inputs_the_same_noise_goes_in(tmp_path: Path) -> None:
    model = difference_onnx(tmp_path)
    outputs = []
    for _ in range(2):
        assert run_job(tmp_path, section("onnxruntime", model.name, outputs=["less.bin"])).code == 0
        outputs.append((tmp_path / "less.bin").read_bytes())
    assert outputs[0] == outputs[1] == bytes(20)  # one less itself: every input begins with the same noise


def test_a_run_goes_on_until_it_has_its_runs_and_its_seconds(tmp_path: Path) -> None:
    model = section("onnxruntime", difference_onnx(tmp_path).name)
    many = run_job(tmp_path, model, runs=3000, warmup_runs=5)
    lines = many.of("runs")
    assert [len(line["ns"]) for line in lines] == [1024, 1024, 952]
    assert all(line["block"] is None and line["model"] == 0 for line in lines)
    active = next(event for event in many.of("phase") if event["name"] == "active")
    for line, after in itertools.pairwise([*lines, {"start_ns": active["end_ns"]}]):
        assert active["start_ns"] <= line["start_ns"]
        assert line["start_ns"] + sum(line["ns"]) <= after["start_ns"]
    long = run_job(tmp_path, model, runs=2, seconds=0.2, warmup_seconds=0.1, idle_seconds=0.05)
    assert sum(len(line["ns"]) for line in long.of("runs")) > 2
    lasted = {event["name"]: event["end_ns"] - event["start_ns"] for event in long.of("phase")}
    assert list(lasted) == ["idle", "warmup", "active"]
    assert lasted["idle"] >= 0.05e9
    assert lasted["warmup"] >= 0.1e9
    assert lasted["active"] >= 0.2e9


def test_memory_is_told_before_and_after_the_model(int8_file: Path, tmp_path: Path) -> None:
    told = run_job(tmp_path, section("ai-edge-litert", int8_file))
    assert 1e6 < told.one("base_memory")["bytes"] < told.one("memory")["peak_bytes"] < 200e6
    assert told.one("load")["ns"] > 0


@pytest.mark.parametrize(
    "runtime", ["ai-edge-litert", "onnxruntime", pytest.param("tflite-runtime", marks=needs_environment)]
)
def test_threads_are_as_many_as_asked_for(runtime: str, tmp_path: Path) -> None:
    file = exported(tmp_path, "onnx" if runtime == "onnxruntime" else "tflite", precision="float32")
    counts = []
    for threads in (1, 4):
        job = write_job(tmp_path, section(runtime, file.name), threads=threads, idle_seconds=20)
        with subprocess.Popen([str(agent()), "run", str(job)], stdout=subprocess.PIPE) as running:
            assert running.stdout is not None
            events = (json.loads(line) for line in running.stdout)
            assert any(event["event"] == "outputs" for event in events)
            counts.append(len(list(Path(f"/proc/{running.pid}/task").iterdir())))
            running.kill()
    assert counts[1] - counts[0] == 3
    assert counts[0] <= 2  # onnxruntime keeps one beside those that compute


def test_two_models_take_turns_within_blocks(tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    first = section("onnxruntime", difference_onnx(tmp_path).name)
    second = section("ai-edge-litert", exported(folder, "tflite"))
    for swapped, turns in ((0, [0, 1, 1, 0]), (1, [1, 0, 0, 1])):
        told = run_job(tmp_path, first, second, blocks=4, runs=24, swapped=swapped)
        assert told.code == 0
        lines = told.of("runs")
        assert [line["model"] for line in lines] == turns * 4
        assert [line["block"] for line in lines] == [block for block in range(4) for _ in turns]
        assert {len(line["ns"]) for line in lines} == {3}
        starts = [line["start_ns"] for line in lines]
        assert starts == sorted(starts)
        assert [event["model"] for event in told.of("load")] == turns[:2]
    timed = run_job(tmp_path, first, second, blocks=4, seconds=0.4, warmup_seconds=0.05)
    counts = {len(line["ns"]) for line in timed.of("runs")}
    assert min(counts) > 1


def test_a_second_run_waits_for_the_first(tmp_path: Path) -> None:
    model = section("onnxruntime", difference_onnx(tmp_path).name)
    first_job = write_job(tmp_path, model, idle_seconds=1, lock="lock")
    with subprocess.Popen([str(agent()), "run", str(first_job)], stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        before = json.loads(first.stdout.readline())
        assert before["event"] == "state"
        second = run_job(tmp_path, model, lock="lock")
        events = [json.loads(line) for line in first.stdout]
    assert second.code == 0
    assert second.names[0] == "waiting"
    ended = next(event["end_ns"] for event in events if event.get("name") == "active")
    assert all(event["start_ns"] > ended for event in second.of("phase"))
    assert "waiting" not in run_job(tmp_path, model, lock="lock").names


@pytest.mark.parametrize(
    ("runtime", "kind"), [("ai-edge-litert", "tflite"), ("onnxruntime", "onnx"), ("openvino", "openvino")]
)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.6])
def test_a_damaged_model_is_an_error_that_names_the_call(
    runtime: str, kind: Format, share: float, tmp_path: Path
) -> None:
    file = exported(tmp_path, kind, precision="float32")
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    told = run_job(tmp_path, section(runtime, file.name))
    assert told.code == 1
    assert "failed: " in told.error
    assert told.error.startswith(CALLS[runtime])


@needs_environment
@pytest.mark.parametrize("length", [0, 40, 1000, 2500])
def test_tflite_runtime_refuses_a_damaged_model(length: int, int8_file: Path, tmp_path: Path) -> None:
    (tmp_path / "damaged.tflite").write_bytes(int8_file.read_bytes()[:length])
    told = run_job(tmp_path, section("tflite-runtime", "damaged.tflite"))
    assert told.code == 1
    assert told.error


def test_what_a_runtime_complains_of_is_told(tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"not a model")
    assert "Protobuf" in run_job(tmp_path, section("onnxruntime", "no.onnx")).error


@pytest.mark.parametrize("runtime", ["ai-edge-litert", "onnxruntime", "openvino", "tflite-runtime"])
def test_a_library_of_something_else_is_refused(runtime: str, tmp_path: Path) -> None:
    lines = f"model {difference_onnx(tmp_path).name}\nruntime {runtime}\nlibrary libm.so.6\n"
    (tmp_path / "libm.so.6").symlink_to(next(Path("/lib").glob("*/libm.so.6")))
    told = run_job(tmp_path, lines)
    assert told.code == 1
    assert told.error.startswith("the runtime's library ")


def test_a_runtime_that_crashes_is_heard(tmp_path: Path) -> None:
    """What it wrote before is kept back while a model is loaded, but not if that is the end."""
    source = tmp_path / "crash.c"
    source.write_text(
        "#include <stdio.h>\n#include <stdlib.h>\n"
        'const void *OrtGetApiBase(void) { fputs("terminate: out of ideas\\n", stderr); abort(); }\n'
    )
    _, command = build._compiler(HERE)
    compile_program([*command, "-shared"], [source], tmp_path / "crash.so")
    lines = f"model {difference_onnx(tmp_path).name}\nruntime onnxruntime\nlibrary crash.so\n"
    done = subprocess.run([str(agent()), "run", str(write_job(tmp_path, lines))], capture_output=True, check=False)
    assert done.returncode == -signal.SIGABRT
    assert b"out of ideas" in done.stderr


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    model = difference_onnx(tmp_path).name
    assert "gone.onnx" in run_job(tmp_path, section("onnxruntime", "gone.onnx")).error
    missing = run_job(tmp_path, f"model {model}\nruntime ai-edge-litert\nlibrary gone.so\n")
    assert missing.code == 1
    assert "gone.so" in missing.error
    assert "gone.bin" in run_job(tmp_path, section("onnxruntime", model, ["gone.bin", "gone.bin"])).error


def test_inputs_that_do_not_fit_the_model_are_a_bad_job(tmp_path: Path) -> None:
    model = difference_onnx(tmp_path).name
    numbers(tmp_path, "two.bin", 2, seed=0)
    numbers(tmp_path, "three.bin", 3, seed=0)
    (tmp_path / "odd.bin").write_bytes(bytes(21))
    (tmp_path / "empty.bin").write_bytes(b"")
    for inputs in (["two.bin"], ["two.bin", "three.bin"], ["odd.bin", "odd.bin"], ["empty.bin", "empty.bin"]):
        told = run_job(tmp_path, section("onnxruntime", model, inputs))
        assert told.code == 2
        assert told.error
    assert run_job(tmp_path, section("onnxruntime", model, outputs=["x", "y"])).code == 2


def test_an_older_litert_is_refused(tmp_path: Path) -> None:
    """A library that has LiteRT's functions but not those by which its version is told."""
    source = tmp_path / "old.c"
    names = ("LiteRtCreateEnvironment", "LiteRtCreateModelFromFile")
    source.write_text("".join(f"int {name}(void) {{ return 0; }}\n" for name in names))
    _, command = build._compiler(HERE)
    compile_program([*command, "-shared"], [source], tmp_path / "old.so")
    told = run_job(tmp_path, f"model {difference_onnx(tmp_path).name}\nruntime ai-edge-litert\nlibrary old.so\n")
    assert told.code == 1
    assert "2.2 or newer" in told.error


def test_a_run_that_is_killed_leaves_the_lock_free(tmp_path: Path) -> None:
    model = section("onnxruntime", difference_onnx(tmp_path).name)
    job = write_job(tmp_path, model, seconds=60, lock="lock")
    with subprocess.Popen([str(agent()), "run", str(job)], stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.readline()
        running.kill()
    started = time.monotonic()
    assert run_job(tmp_path, model, lock="lock").names[0] == "state"
    assert time.monotonic() - started < 30
