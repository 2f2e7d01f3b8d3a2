"""The [teacher] tables: which are read, which are refused, and where their paths lead."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgekd.config import read_config
from edgekd.distill.teacher_config import (
    Command,
    Ensemble,
    OnnxFile,
    StoredOutputs,
    TorchModule,
    can_be_tapped,
    takes_raw,
)
from edgekd.errors import UsageError
from edgekd.recipe import Recipe, TorchTeacher, load_recipe, resolve_paths
from edgekd.resources import BUILT_IN_RECIPES

HEAD, _, TAIL = (BUILT_IN_RECIPES / "digits.toml").read_text().partition("[teacher]")
TAIL = TAIL[TAIL.index("[student]") :]
TABLES: Mapping[str, str] = {
    "torch": 'model = "resnet"\nweights = "w.pt"',
    "transformers": 'folder = "bert"',
    "onnx": 'file = "t.onnx"',
    "tflite": 'file = "t.tflite"',
    "keras": 'path = "t.keras"',
    "command": 'argv = ["python", "./serve.py", "--fast"]\nversion = "3"',
    "http": 'url = "http://127.0.0.1:80/answer"\nversion = "3"',
    "stored": 'file = "t.npz"',
    "ensemble": '[[teacher.members]]\nkind = "onnx"\nfile = "a.onnx"\n[[teacher.members]]\nmodel = "resnet"\n'
    'weights = "w.pt"\npreprocess = "mine:f"',
}


def text(table: str) -> str:
    return f"{HEAD}[teacher]\n{table}\n{TAIL}"


def read(table: str, *overrides: str) -> Any:
    return read_config(Recipe, text(table), "my.toml", overrides).teacher


def of(kind: str, *lines: str) -> str:
    return "\n".join([f'kind = "{kind}"', *lines, TABLES[kind]])


def refused(table: str, *overrides: str) -> str:
    with pytest.raises(UsageError) as error:
        read(table, *overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind", TABLES)
def test_every_kind_is_read_by_its_name(kind: str) -> None:
    assert read(of(kind)).kind == kind


def test_a_table_without_a_kind_is_a_torch_module() -> None:
    assert read(TABLES["torch"]) == read(of("torch")) == TorchTeacher(model="resnet", weights=Path("w.pt"))


def test_members_are_read_by_their_kinds() -> None:
    teacher = read(of("ensemble", "weights = [1, 2.5]", 'mean = "logits"'))
    assert isinstance(teacher, Ensemble)
    assert [type(member) for member in teacher.members] == [OnnxFile, TorchModule]
    assert (teacher.weights, teacher.mean) == ((1.0, 2.5), "logits")


def test_an_unknown_kind_names_the_kinds_there_are() -> None:
    message = refused('kind = "pytorch"\nmodel = "resnet"')
    assert "'teacher.kind': must be one of 'torch', 'transformers'" in message
    assert message.endswith("not 'pytorch'")


@pytest.mark.parametrize(
    ("table", "key"),
    [
        (of("onnx", "batch = 3"), "unknown key 'teacher.batch'"),
        (of("onnx", 'label = ["a"]'), "unknown key 'teacher.label'; did you mean 'labels'?"),
        (of("command", "time_out = 3.0"), "unknown key 'teacher.time_out'; did you mean 'timeout'?"),
        (of("stored", 'preprocess = "a:b"'), "unknown key 'teacher.preprocess'"),
        ('kind = "onnx"', "'teacher.file' is missing"),
        ('kind = "command"\nargv = ["a"]', "'teacher.version' is missing"),
        ('kind = "http"\nurl = "http://x/"', "'teacher.version' is missing"),
        ('kind = "http"\nurl = "file:///etc/passwd"\nversion = "1"', "'teacher.url'"),
        ('kind = "command"\nargv = []\nversion = "1"', "'teacher.argv'"),
        ('kind = "command"\nargv = "rm -rf"\nversion = "1"', "'teacher.argv'"),
        (of("http", "timeout = 0.0"), "'teacher.timeout'"),
        (of("http", 'outputs = "numbers"'), "'teacher.outputs'"),
        (of("onnx", 'preprocess = "mine"'), "'teacher.preprocess'"),
        (of("onnx", 'labels = ["a", "b", "a"]'), "two labels are called 'a'"),
        (of("onnx", 'labels = ["a", ""]'), "'teacher.labels.1'"),
        ('kind = "ensemble"\nmembers = []', "'teacher.members'"),
        (of("ensemble", "weights = [1.0]"), "1 weights for 2 members"),
        (of("ensemble", "weights = [1.0, 0.0]"), "'teacher.weights.1'"),
        ('kind = "ensemble"\n[[teacher.members]]\nkind = "onnx"\nfil = "a"', "'teacher.members.0.file' is missing"),
        ('kind = "ensemble"\n[[teacher.members]]\nkind = "onx"', "'teacher.members.0.kind': must be one of"),
        ('kind = "ensemble"\n[[teacher.members]]\nkind = "ensemble"', "'teacher.members.0.kind': must be one of"),
        ('kind = "ensemble"\n[[teacher.members]]\nmodel = "resnet"', "'teacher.members.0.weights' is missing"),
        ('model = "resnet"', "give either 'weights'"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_key(table: str, key: str) -> None:
    assert key in refused(table)


def test_paths_are_relative_to_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / "mine.toml"

    def located(table: str) -> Any:
        file.write_text(text(table))
        return resolve_paths(load_recipe("sub/mine.toml")).teacher

    sub = tmp_path / "sub"
    assert located(of("onnx")).file == sub / "t.onnx"
    assert located(of("keras")).path == sub / "t.keras"
    assert located(of("transformers")).folder == sub / "bert"
    assert located(of("stored")).file == sub / "t.npz"
    assert located(of("command")).argv == ("python", sub / "serve.py", "--fast")
    members = located(of("ensemble")).members
    assert (members[0].file, members[1].weights) == (sub / "a.onnx", sub / "w.pt")


@pytest.mark.parametrize(("kind", "key"), [("onnx", "file"), ("keras", "path"), ("transformers", "folder")])
def test_a_path_in_an_override_is_relative_to_the_current_folder(
    kind: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "mine.toml").write_text(text(of(kind)))
    teacher = resolve_paths(load_recipe("sub/mine.toml", [f"teacher.{key}=./other"])).teacher
    assert getattr(teacher, key) == tmp_path / "other"


def test_only_a_torch_module_of_its_own_can_be_tapped() -> None:
    assert [kind for kind in TABLES if can_be_tapped(read(of(kind)))] == ["torch"]


def test_raw_samples_are_for_those_that_may_look_at_them() -> None:
    assert {kind for kind in TABLES if takes_raw(read(of(kind)))} == {"transformers", "stored", "ensemble"}
    assert takes_raw(read(of("onnx", 'preprocess = "mine:f"')))
    assert not takes_raw(Ensemble(kind="ensemble", members=(OnnxFile(kind="onnx", file=Path("a")),)))
    assert takes_raw(Ensemble(kind="ensemble", members=(StoredOutputs(kind="stored", file=Path("a")),)))


def test_a_command_is_not_a_string_for_a_shell() -> None:
    assert Command(kind="command", argv=("a b", "; c"), version="1").argv == ("a b", "; c")
