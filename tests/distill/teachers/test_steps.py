"""The steps of a teacher, from a recipe to a student that has learned from it."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekd import dependencies
from edgekd.artifact import Artifact, describe_files
from edgekd.distill.teacher_config import KerasModel
from edgekd.distill.teachers.blocks import SIZE
from edgekd.distill.teachers.steps import cache_outputs, train_teacher
from edgekd.errors import DependencyError, GateError, UsageError
from edgekd.keys import Fingerprints
from edgekd.plan import OBJECTIVE, Plan, make_plan
from edgekd.recipe import Distillation, Quantization, Recipe, Student, Task, Training
from edgekd.step import Work
from edgekd.step_configs import TeacherConfig
from tests.distill.teachers.cache_program import cache
from tests.distill.teachers.files import keras_model, onnx_file
from tests.distill.teachers.small import (
    HERE,
    IMAGE_VIEWS,
    IMAGES,
    LABELS,
    SEED,
    SHAPE,
    TEST,
    TRAIN,
    data_of,
    fragile,
    linear,
    made,
)
from tests.distill.teachers.small import (
    SIZE as NUMBERS,
)

BLOCKS = 3 * -(-TRAIN // SIZE)
Kernel = tuple[np.ndarray, np.ndarray]


def good(order: tuple[str, ...] = LABELS) -> Kernel:
    """A linear teacher that knows the classes: least squares on channels-last images, outputs in an order."""
    data = data_of()
    flat = np.load(data.file("train_inputs.npy"))[0].transpose(0, 2, 3, 1).reshape(TRAIN, -1)
    wanted = 8 * np.eye(3)[np.load(data.file("train_labels.npy"))][:, [LABELS.index(name) for name in order]]
    kernel = np.linalg.lstsq(np.c_[flat, np.ones(TRAIN)], wanted, rcond=None)[0].astype(np.float32)
    return kernel[:-1], kernel[-1]


def keras_teacher(file: Path, kernel: Kernel, activation: str | None = None) -> dict[str, Any]:
    model = keras_model(activation)
    model.set_weights(list(kernel))
    model.save(file)
    outputs = {"outputs": "probabilities"} if activation else {}
    return {"kind": "keras", "path": file, **outputs}


def onnx_teacher(file: Path, kernel: Kernel) -> dict[str, Any]:
    first = kernel[0].reshape(*SHAPE[1:], SHAPE[0], -1).transpose(2, 0, 1, 3).reshape(NUMBERS, -1)
    return {"kind": "onnx", "file": onnx_file(file, kernel=first, bias=kernel[1], shape=SHAPE)}


def recipe_of(teacher: Mapping[str, Any], task: Task = IMAGES) -> Recipe:
    training = Training(epochs=12, batch_size=64, learning_rate=1e-2)
    return Recipe(
        name="small",
        task=task,
        teacher=teacher,  # type: ignore[arg-type]
        student=Student(model="ds_cnn", args={"width": 8, "blocks": 1}),
        distill=Distillation(train=training, weight=1.0),
        quantize=Quantization(train=training),
        seed=SEED,
    )


def plan_of(recipe: Recipe, folder: Path) -> Plan:
    return make_plan(recipe, ["tflite-arm"], Fingerprints(folder / "fingerprints.json"))


def run(
    plan: Plan, folder: Path, names: Iterable[str] = ("data", "teacher", "outputs", "student")
) -> dict[str, Artifact]:
    """These steps of a plan, in turn, as a build calls them."""
    artifacts: dict[str, Artifact] = {}
    for name in names:
        step = plan.by_name[name]
        out = folder / name
        out.mkdir()
        inputs = {role: artifacts[source] for role, source in step.inputs.items()}
        artifacts[name] = made(out, step.load()(Work(step.config, inputs, out, step.seed)), name)
    return artifacts


def check_taught(artifacts: Mapping[str, Artifact]) -> None:
    """The student, which saw no labels, answers as its teacher does."""
    assert artifacts["teacher"].facts["accuracy"] > 0.95
    assert artifacts["student"].facts["accuracy"] >= 0.9


def test_a_keras_model_teaches_a_student(tmp_path: Path) -> None:
    plan = plan_of(recipe_of(keras_teacher(tmp_path / "teacher.keras", good(), "softmax")), tmp_path)
    artifacts = run(plan, tmp_path)
    check_taught(artifacts)
    assert artifacts["teacher"].facts["params"] == 3 * NUMBERS + 3
    assert artifacts["teacher"].facts["macs"] is None


def test_an_onnx_file_in_another_order_of_classes_teaches_a_student(tmp_path: Path) -> None:
    order = ("bright", "dark", "grey")
    teacher = {**onnx_teacher(tmp_path / "teacher.onnx", good(order)), "labels": order}
    artifacts = run(plan_of(recipe_of(teacher), tmp_path), tmp_path)
    check_taught(artifacts)
    assert artifacts["teacher"].facts["params"] is None


def test_an_ensemble_teaches_a_student(tmp_path: Path) -> None:
    """One member takes the student's inputs, the other makes its own from the raw images."""
    keras = {**keras_teacher(tmp_path / "a.keras", good()), "preprocess": f"{HERE}:channels_last_pixels"}
    teacher = {"kind": "ensemble", "members": (keras, onnx_teacher(tmp_path / "b.onnx", good())), "weights": (1.0, 2.0)}
    artifacts = run(plan_of(recipe_of(teacher, IMAGE_VIEWS), tmp_path), tmp_path)
    check_taught(artifacts)
    outputs = np.load(artifacts["outputs"].file("train.npy"))
    assert outputs.shape == (3, TRAIN, 3)


def test_a_plan_does_not_export_or_measure_what_only_answers(tmp_path: Path) -> None:
    plan = plan_of(recipe_of(onnx_teacher(tmp_path / "teacher.onnx", good())), tmp_path)
    assert not [step.name for step in plan.steps if "teacher" in step.name and step.name != "teacher"]
    assert plan.targets[0].teacher_measurements == ()
    assert plan.targets[0].student_measurements


def test_what_a_member_needs_is_asked_for_with_the_command_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = dependencies.package_version
    monkeypatch.setattr(dependencies, "package_version", lambda name: None if name == "tensorflow" else installed(name))
    member = {"kind": "keras", "path": tmp_path / "teacher.keras"}
    with pytest.raises(DependencyError) as error:
        plan_of(recipe_of({"kind": "ensemble", "members": (member,)}), tmp_path)
    assert str(error.value) == "not installed: tensorflow; run: pip install 'edgekd[keras,tflite]'"


@pytest.mark.parametrize("name", ["teacher", "outputs"])
def test_the_cache_is_of_this_very_file(name: str, tmp_path: Path) -> None:
    teacher = onnx_teacher(tmp_path / "teacher.onnx", good())
    before = plan_of(recipe_of(teacher), tmp_path).keys
    onnx_teacher(tmp_path / "teacher.onnx", good(("bright", "dark", "grey")))
    after = plan_of(recipe_of(teacher), tmp_path).keys
    assert before[name] != after[name]
    assert before["data"] == after["data"]


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({"version": "2"}, True),
        ({"labels": ("bright", "dark", "grey")}, True),
        ({"outputs": "logits"}, True),
        ({"preprocess": f"{HERE}:brightness"}, True),
        ({"timeout": 5.0}, False),
        ({}, False),
    ],
)
def test_the_cache_of_a_command_is_of_its_version_and_table(
    settings: Mapping[str, Any], changes: bool, tmp_path: Path
) -> None:
    teacher = {"kind": "command", "argv": ("true",), "version": "1"}
    keys = [plan_of(recipe_of(table), tmp_path).keys["outputs"] for table in (teacher, {**teacher, **settings})]
    assert (keys[0] != keys[1]) == changes


def test_a_program_beside_the_recipe_counts_by_its_content(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    teacher = {"kind": "command", "argv": ("python", program), "version": "1"}
    keys = []
    for content in ("one", "other", "one"):
        program.write_text(content)
        keys.append(plan_of(recipe_of(teacher), tmp_path).keys["outputs"])
    assert keys[0] == keys[2] != keys[1]


def black_box(file: Path) -> KerasModel:
    keras_model().save(file)
    return KerasModel(kind="keras", path=file)


def test_every_view_of_every_split_is_cached(tmp_path: Path) -> None:
    teacher = TeacherConfig(black_box(tmp_path / "teacher.keras"), None)
    data = with_validation(tmp_path)
    looked, out = tmp_path / "teacher", tmp_path / "outputs"
    looked.mkdir()
    out.mkdir()
    facts = train_teacher(Work(teacher, {"data": data}, looked, SEED))
    seen: list[tuple[int, int]] = []
    inputs = {"data": data, "teacher": made(looked, facts, "teacher")}
    cache_outputs(Work(teacher, inputs, out, SEED, lambda done, total, note="": seen.append((done, total))))
    assert {file.name for file in out.iterdir()} == {"train.npy", "validation.npy", "test.npy"}
    train = np.load(data.file("train_inputs.npy"))
    found = np.load(out / "train.npy")
    assert (found.dtype, found.shape) == (np.float32, (3, TRAIN, 3))
    for view in range(3):
        np.testing.assert_allclose(found[view], linear(train[view]), atol=1e-3)
    np.testing.assert_allclose(np.load(out / "validation.npy"), linear(train[0, :7]), atol=1e-3)
    np.testing.assert_allclose(np.load(out / "test.npy"), linear(np.load(data.file("test_inputs.npy"))), atol=1e-3)
    assert seen[-1] == (3 * TRAIN + 7, 3 * TRAIN + 7)


def with_validation(folder: Path) -> Artifact:
    """The data with a validation split: the first seven training samples."""
    data, place = data_of(IMAGE_VIEWS), folder / "data"
    place.mkdir()
    for name in data.files:
        (place / name).symlink_to(data.file(name))
    np.save(place / "validation_inputs.npy", np.load(data.file("train_inputs.npy"))[0, :7])
    np.save(place / "validation_labels.npy", np.load(data.file("train_labels.npy"))[:7])
    assert "validation_inputs.npy" in describe_files(place)
    return made(place, data.facts)


def program(folder: Path, mode: str, **environment: str) -> subprocess.Popen[bytes]:
    """The caching program, in a process of its own."""
    arguments = [str(folder), str(folder.parent / "scratch"), str(folder / "log"), mode]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.distill.teachers.cache_program", *arguments],
        env={**os.environ, **environment},
        start_new_session=True,
    )


def test_killed_it_goes_on_with_the_next_block(tmp_path: Path) -> None:
    scratch, first = tmp_path / "scratch", tmp_path / "first"
    process = program(first, "slow")
    while len(list(scratch.glob("*.npy"))) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    there = {file: file.stat().st_mtime_ns for file in scratch.glob("*.npy")}
    assert 2 <= len(there) < BLOCKS
    assert not (first / "out" / "train.npy").exists()
    cache(tmp_path / "second", scratch, tmp_path / "log", "right")
    assert len(list((tmp_path / "log").iterdir())) == BLOCKS - len(there)
    assert {file: file.stat().st_mtime_ns for file in there} == there
    cache(tmp_path / "unbroken", None, tmp_path / "another log", "right")
    found, expected = (np.load(tmp_path / name / "out" / "train.npy") for name in ("second", "unbroken"))
    np.testing.assert_array_equal(found, expected)


def test_two_processes_share_the_work(tmp_path: Path) -> None:
    processes = [program(tmp_path / f"{rank}", "right", RANK=f"{rank}", WORLD_SIZE="2") for rank in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0]
    batches = [len(list((tmp_path / f"{rank}" / "log").iterdir())) for rank in range(2)]
    assert sum(batches) == BLOCKS
    assert max(batches) - min(batches) <= 1
    assert not (tmp_path / "1" / "out" / "train.npy").exists()
    cache(tmp_path / "alone", None, tmp_path / "log", "right")
    found, expected = (np.load(tmp_path / name / "out" / "train.npy") for name in ("0", "alone"))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dead", [0, 1])
def test_processes_of_a_launch_do_not_go_on_without_each_other(dead: int, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    processes = [
        program(tmp_path / f"{rank}", "dies" if rank == dead else "right", RANK=f"{rank}", **address)
        for rank in range(2)
    ]
    assert [process.wait(120) for process in processes] == [1, 1]
    assert len(list((tmp_path / f"{1 - dead}" / "log").iterdir())) == 2
    cache(tmp_path / "again", tmp_path / "scratch", tmp_path / "log", "right")
    assert len(list((tmp_path / "log").iterdir())) == BLOCKS - 3


def test_a_torch_module_is_cached_as_before(tmp_path: Path) -> None:
    training = Training(epochs=1, batch_size=64)
    teacher = {"model": "ds_cnn", "args": {"width": 8, "blocks": 1}, "train": training}
    artifacts = run(plan_of(recipe_of(teacher), tmp_path), tmp_path, ("data", "teacher", "outputs"))
    facts = artifacts["teacher"].facts
    assert facts["params"] > 0
    assert facts["macs"] > 0
    assert np.load(artifacts["outputs"].file("test.npy")).shape == (TEST, 3)


@pytest.mark.parametrize(("split", "name"), [("test", "test"), ("train", "training")])
def test_a_torch_module_that_is_not_finite_for_one_sample_names_it(split: str, name: str, tmp_path: Path) -> None:
    inputs = {part: np.load(data_of().file(f"{part}_inputs.npy")).reshape(-1, NUMBERS) for part in ("train", "test")}
    firsts = np.concatenate([inputs["train"][:, 0], inputs["test"][:, 0]])
    alone = [at for at, first in enumerate(inputs[split][:, 0]) if (firsts == first).sum() == 1]
    torch.save(fragile(SHAPE, 3, 0.0).state_dict(), tmp_path / "weights.pt")
    args = {"at": float(inputs[split][alone[0], 0])}
    teacher = {"model": f"{HERE}:fragile", "args": args, "weights": tmp_path / "weights.pt"}
    plan = plan_of(recipe_of(teacher), tmp_path)
    with pytest.raises(GateError, match=rf"teacher: its outputs for {name} sample {alone[0]} are not finite"):
        run(plan, tmp_path, ("data", "teacher", "outputs"))


@pytest.mark.parametrize(
    ("distill", "words"),
    [
        ({"losses": ({"kind": "hint", "student_layer": "stem", "teacher_layer": "stem"},)}, "'hint' looks into"),
        ({"online": True}, "distill.online"),
    ],
)
def test_layers_of_what_only_answers_cannot_be_looked_into(
    distill: Mapping[str, Any], words: str, tmp_path: Path
) -> None:
    recipe = recipe_of({"kind": "onnx", "file": tmp_path / "teacher.onnx"})
    recipe = dataclasses.replace(recipe, distill=Distillation(train=recipe.distill.train, **distill))
    with pytest.raises(UsageError) as error:
        plan_of(recipe, tmp_path)
    assert words in str(error.value)
    assert "a teacher of the kind 'onnx' gives its outputs only" in str(error.value)


def test_an_objective_is_tried_without_what_only_answers(tmp_path: Path) -> None:
    plan = plan_of(recipe_of(onnx_teacher(tmp_path / "teacher.onnx", good())), tmp_path)
    artifacts = run(plan, tmp_path, [OBJECTIVE])
    assert artifacts[OBJECTIVE].facts["losses"] == ["hard", "soft"]


def test_a_teacher_that_does_not_fit_is_refused_by_its_first_step(tmp_path: Path) -> None:
    teacher = {**onnx_teacher(tmp_path / "teacher.onnx", good()), "labels": ("cat", "dog", "cow")}
    with pytest.raises(UsageError, match="teacher: its classes"):
        run(plan_of(recipe_of(teacher), tmp_path), tmp_path, ("data", "teacher"))
