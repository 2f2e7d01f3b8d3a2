"""Whole builds: what they hold, how they resume, how they fail."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.artifact import Artifact, read_manifest
from tests.conftest import QUICK, Built, Run, edgekd, overrides

BUILD = ("build", "--recipe", "digits", "--target", "tflite-arm")


def quick_build(folder: Path, *settings: str) -> Run:
    return edgekd(folder, *BUILD, "--json", *overrides((*QUICK, *settings)))


def cached(run: Run) -> dict[str, bool]:
    return {step["name"]: step["cached"] for step in run.document["steps"]}


def start(folder: Path, *settings: str) -> subprocess.Popen[str]:
    """A build in a process that heeds Ctrl-C, also where these tests run in the background and do not."""
    return subprocess.Popen(
        [sys.executable, "-m", "edgekd", *BUILD, "--json", *overrides((*QUICK, *settings))],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finished_artifacts(store: Path) -> set[str]:
    return {file.parent.name for file in store.glob("artifacts/*/*/artifact.json")}


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("unbroken")
    run = quick_build(folder)
    assert run.code == 0, run.stderr
    return Built(folder, run.document)


def test_digits_meets_its_gates(digits: Built) -> None:
    artifact = digits.document["artifacts"][0]
    accuracy, samples = artifact["accuracy"], artifact["parity"]["samples"]
    report = json.loads((digits.home / "report.json").read_text())
    assert samples >= 200
    assert accuracy["student_float"] - accuracy["exported"] <= max(0.005, 2 / samples)
    assert accuracy["teacher"] - accuracy["student_float"] <= 0.01
    assert report["teacher"]["params"] >= 10 * report["student"]["params"]
    assert artifact["parity"]["agreement"] >= 0.99
    assert artifact["quantizers"]["exact"] == artifact["quantizers"]["learned"] > 0
    assert artifact["ops"]["delegated"] == artifact["ops"]["total"]
    assert artifact["ops"]["delegates"] == 1
    assert artifact["ops"]["stray_transposes"] == 0
    assert artifact["bytes"] <= 0.7 * artifact["float32"]["bytes"]


def test_published_files_are_what_the_manifest_says(digits: Built) -> None:
    manifest = json.loads((digits.target / "manifest.json").read_text())
    found = {path.relative_to(digits.target).as_posix() for path in digits.target.rglob("*") if path.is_file()}
    assert found == {*manifest["files"], "manifest.json"}
    for name, entry in manifest["files"].items():
        content = (digits.target / name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry["bytes"], entry["sha256"])


def test_an_app_gets_the_golden_outputs_from_raw_pixels(digits: Built) -> None:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(digits.target / "model.tflite"))
    interpreter.allocate_tensors()
    source, sink = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    assert (source["dtype"], sink["dtype"]) == (np.int8, np.int8)
    with np.load(digits.target / "golden.npz") as golden:
        for raw, expected in zip(golden["raw"], golden["output"], strict=True):
            interpreter.set_tensor(source["index"], (raw.astype(np.int16) - 128).astype(np.int8)[None])
            interpreter.invoke()
            np.testing.assert_array_equal(interpreter.get_tensor(sink["index"])[0], expected)


def test_raw_samples_are_kept_and_give_the_percentiles(digits: Built) -> None:
    manifest = json.loads((digits.target / "manifest.json").read_text())
    for measurement in manifest["measurements"]:
        samples = np.load(digits.target / measurement["samples_file"])
        assert samples.size == measurement["samples"] >= 128
        assert measurement["p50_ms"]["value"] == pytest.approx(np.quantile(samples, 0.5) / 1e6)
        assert measurement["p50_ms"]["low"] <= measurement["p50_ms"]["value"] <= measurement["p50_ms"]["high"]


def test_a_second_build_does_nothing_and_loads_no_torch(digits: Built) -> None:
    code = (
        "import sys; sys.argv = ['edgekd', 'build', '--recipe', 'digits', '--target', 'tflite-arm', '--json']\n"
        "from edgekd.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code\n"
        "    assert not {'torch', 'nncf', 'litert_torch', 'matplotlib'} & set(sys.modules)\n"
    )
    before = {
        file: file.stat().st_mtime_ns for file in digits.home.rglob("*") if file.is_file() and file.name != ".lock"
    }
    done = subprocess.run([sys.executable, "-c", code], cwd=digits.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert all(step["cached"] for step in document["steps"])
    assert document["artifacts"] == digits.document["artifacts"]
    assert before == {file: file.stat().st_mtime_ns for file in before}


def test_plan_shows_what_is_there(digits: Built) -> None:
    run = edgekd(digits.folder, "plan", "--recipe", "digits", "--target", "tflite-arm", "--json")
    assert [step["cached"] for step in run.document["steps"]] == [True] * len(run.document["steps"])


def test_one_key_reruns_only_what_depends_on_it(unbroken: Built, tmp_path: Path) -> None:
    shutil.copytree(unbroken.folder / ".edgekd", tmp_path / ".edgekd")
    again = quick_build(tmp_path, "quantize.train.learning_rate=5e-4")
    assert again.code == 0, again.stderr
    rerun = {name for name, was_cached in cached(again).items() if not was_cached}
    assert rerun == {"program", "export[tflite int8]", "verify[tflite-arm]", "measure[tflite-arm on local]"}


def test_killed_at_ten_moments_it_ends_with_the_same_model(unbroken: Built, tmp_path: Path) -> None:
    moments = random.Random(20261121)
    store = tmp_path / ".edgekd"
    kills = 0
    for _ in range(10):
        before = finished_artifacts(store)
        process = start(tmp_path)
        time.sleep(moments.uniform(0.5, 9.0))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
        assert before <= finished_artifacts(store)
        model = tmp_path / "build" / "digits" / "tflite-arm" / "model.tflite"
        assert not model.exists() or model.read_bytes() == (unbroken.target / "model.tflite").read_bytes()
    there = finished_artifacts(store)
    final = quick_build(tmp_path)
    assert final.code == 0, final.stderr
    assert kills >= 5
    tried = {key for key in there if read_manifest(next(store.glob(f"artifacts/*/{key}"))).step.startswith("preflight")}
    assert {step["key"] for step in final.document["steps"] if step["cached"]} - tried == there - tried
    assert final.document["artifacts"][0]["sha256"] == unbroken.document["artifacts"][0]["sha256"]
    assert not list((store / "partial").iterdir())


TRAINED = ("teacher", "outputs", "student", "program")


def artifact_of(folder: Path, step: dict[str, Any]) -> Artifact:
    artifact = read_manifest(folder / ".edgekd" / "artifacts" / step["key"][:2] / step["key"])
    assert artifact is not None
    return artifact


def test_a_launch_of_two_trains_what_one_trains(unbroken: Built, tmp_path: Path) -> None:
    shutil.copytree(unbroken.folder / ".edgekd", tmp_path / ".edgekd")
    again = [step for step in unbroken.document["steps"] if step["name"] in TRAINED]
    for step in again:
        shutil.rmtree(artifact_of(tmp_path, step).path)
    launcher = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "-m", "edgekd", *BUILD, "--json", *overrides(QUICK)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    steps = json.loads(done.stdout)["steps"]
    assert {step["name"] for step in steps if not step["cached"]} == set(TRAINED)
    for step in again:
        made, alone = artifact_of(tmp_path, step), artifact_of(unbroken.folder, step)
        if step["name"] == "teacher":
            firsts = [each.file("training.csv").read_text().splitlines()[1].split(",")[2] for each in (made, alone)]
            assert float(firsts[0]) == pytest.approx(float(firsts[1]), rel=1e-4)
        if step["name"] != "outputs":
            assert made.facts["accuracy"] == pytest.approx(alone.facts["accuracy"], abs=0.03)
    for place in ("partial", "scratch"):
        assert list((tmp_path / ".edgekd" / place).iterdir()) == []


def test_trained_steps_keep_their_log(unbroken: Built) -> None:
    for step in unbroken.document["steps"]:
        if step["name"] in ("teacher", "student", "program"):
            artifact = artifact_of(unbroken.folder, step)
            rows = artifact.file("training.csv").read_text().splitlines()
            assert rows[0].startswith("epoch,step,loss,hard,")
            assert len(rows) > 1
            assert any("tfevents" in name for name in artifact.files)


def test_two_builds_at_once_share_the_work(unbroken: Built, tmp_path: Path) -> None:
    processes = [start(tmp_path) for _ in range(2)]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    documents = [json.loads(stdout) for stdout, _ in outputs]
    made = [step["name"] for document in documents for step in document["steps"] if not step["cached"]]
    assert sorted(made) == sorted(step["name"] for step in documents[0]["steps"])
    shas = {document["artifacts"][0]["sha256"] for document in documents}
    assert shas == {unbroken.document["artifacts"][0]["sha256"]}


def test_a_failed_gate_publishes_nothing(unbroken: Built, tmp_path: Path) -> None:
    shutil.copytree(unbroken.folder / ".edgekd", tmp_path / ".edgekd")
    assert quick_build(tmp_path).code == 0
    target = tmp_path / "build" / "digits" / "tflite-arm"
    assert (target / "model.tflite").is_file()
    failed = quick_build(tmp_path, "budgets.bytes=1000")
    assert failed.code == 5
    assert re.fullmatch(r"edgekd: budget: the file has \d+ bytes, more than 1000", failed.stderr.splitlines()[-1])
    assert failed.document["error"]["code"] == 5
    assert not target.exists()
    assert [entry.name for entry in target.parent.iterdir() if entry.is_dir()] == []


def test_interrupted_it_says_so_and_goes_on_later(tmp_path: Path) -> None:
    process = start(tmp_path)
    while process.poll() is None and len(finished_artifacts(tmp_path / ".edgekd")) < 2:
        time.sleep(0.1)  # until the student has been tried and the data are prepared: then it trains
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert stderr.splitlines()[-1].startswith("edgekd: interrupted")
    assert "Traceback" not in stderr
    assert not list((tmp_path / ".edgekd" / "partial").iterdir())


def test_a_teacher_with_other_classes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def teacher(input_shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12))\n"
    )
    run = edgekd(tmp_path, *BUILD, "--set", "teacher.model=mine:teacher", "--set", "teacher.args={}")
    assert run.code == 2
    assert run.stderr.splitlines()[-1] == "edgekd: teacher: mine:teacher has 12 outputs, the data has 10 classes"


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], check=False).returncode != 0:
        pytest.skip("a small file system can be mounted by root only")
    place = tmp_path / "small"
    place.mkdir()
    command = " ".join([sys.executable, "-m", "edgekd", *BUILD])
    script = f"mount -t tmpfs -o size=1m tmpfs {place} && cd {place} && exec {command}"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert last.startswith("edgekd: ")
    assert "No space left on device" in last
    assert "Traceback" not in done.stderr


def recipe_with_given_teacher(folder: Path, weights: Path) -> Path:
    """The digits recipe with a teacher that is not trained here."""
    text = (Path(__file__).parent.parent / "edgekd" / "recipes" / "digits.toml").read_text()
    text = re.sub(r"(?m)^\[teacher\.train\][^\[]*", "", text)
    text = text.replace("\n[teacher]", f"\n[teacher]\nweights = {json.dumps(str(weights))}")
    recipe = folder / "edgekd.toml"
    recipe.write_text(text)
    return recipe


def test_a_given_teacher_is_used_as_it_is(unbroken: Built, tmp_path: Path) -> None:
    step = next(step for step in unbroken.document["steps"] if step["name"] == "teacher")
    given = tmp_path / "teacher.safetensors"
    shutil.copy(
        unbroken.folder / ".edgekd" / "artifacts" / step["key"][:2] / step["key"] / "weights.safetensors", given
    )
    recipe_with_given_teacher(tmp_path, Path("teacher.safetensors"))
    settings = [setting for setting in QUICK if not setting.startswith("teacher.")]
    run = edgekd(tmp_path, "build", "--target", "tflite-arm", "--json", *overrides(tuple(settings)))
    assert run.code == 0, run.stderr
    assert run.document["artifacts"][0]["accuracy"] == unbroken.document["artifacts"][0]["accuracy"]
    assert run.document["artifacts"][0]["sha256"] == unbroken.document["artifacts"][0]["sha256"]


def test_weights_that_would_run_code_are_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({"stem.0.weight": Harmful()}, tmp_path / "teacher.pt")
    recipe_with_given_teacher(tmp_path, Path("teacher.pt"))
    run = edgekd(tmp_path, "build", "--target", "tflite-arm")
    assert run.code == 2
    assert "not a plain state dict" in run.stderr.splitlines()[-1]
    assert not (tmp_path / "harm").exists()


def test_a_given_student_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from edgekd.models.ds_cnn import ds_cnn

    state = ds_cnn((1, 8, 8), 10, width=32, blocks=3).state_dict()
    state["classifier.bias"][3] = float("nan")
    torch.save(state, tmp_path / "student.pt")
    run = edgekd(tmp_path, *BUILD, *overrides((*QUICK, "student.weights=student.pt")))
    assert run.code == 2
    assert "'classifier.bias'" in run.stderr.splitlines()[-1]


def test_more_targets_share_the_training(unbroken: Built, tmp_path: Path) -> None:
    shutil.copytree(unbroken.folder / ".edgekd", tmp_path / ".edgekd")
    targets = ["--target", "onnx-arm", "--target", "openvino-x86"]
    run = edgekd(tmp_path, *BUILD, *targets, "--json", *overrides(QUICK))
    assert run.code == 0, run.stderr
    shared = {"data", "teacher", "outputs", "student", "program", "verify[tflite-arm]", "measure[tflite-arm on local]"}
    assert [name for name in sorted(shared) if not cached(run)[name]] == []
    artifacts = run.document["artifacts"]
    assert [artifact["target"] for artifact in artifacts] == ["tflite-arm", "onnx-arm", "openvino-x86"]
    for artifact in artifacts:
        assert artifact["quantizers"]["exact"] == artifact["quantizers"]["learned"]
        assert artifact["parity"]["agreement"] >= 0.99
        assert artifact["ops"]["undelegated"] == []
        folder = tmp_path / Path(artifact["path"]).parent
        assert edgekd(tmp_path, "verify", str(folder)).code == 0
        spoil_golden(folder)
        refused = edgekd(tmp_path, "verify", str(folder))
        assert refused.code == 5
        assert "golden output" in refused.stderr
    accuracies = [artifact["accuracy"]["exported"] for artifact in artifacts]
    assert max(accuracies) - min(accuracies) <= 0.003


def spoil_golden(folder: Path) -> None:
    """Golden outputs of another model."""
    with np.load(folder / "golden.npz") as golden:
        arrays = dict(golden)
    arrays["output"] = arrays["output"][::-1]
    np.savez(folder / "golden.npz", **arrays)
