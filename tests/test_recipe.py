"""Finding, reading and locating a recipe."""

import dataclasses
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgekd.errors import UsageError
from edgekd.recipe import Recipe, load_recipe, resolve_paths
from edgekd.resources import BUILT_IN_RECIPES

BUILT_IN = sorted(file.stem for file in BUILT_IN_RECIPES.glob("*.toml"))
DIGITS = (BUILT_IN_RECIPES / "digits.toml").read_text()
TRAIN = "[teacher.train]\nepochs = 12\nbatch_size = 64\nlearning_rate = 5e-3\n"
Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def write(here: Path) -> Write:
    """Write a recipe, the digits one with `changes` (old text -> new text) made to it."""

    def writer(file: str, **changes: str) -> Path:
        text = DIGITS
        for old, new in {"name": 'name = "mine"', **changes}.items():
            line = next(line for line in text.splitlines() if line.startswith(f"{old} ="))
            text = text.replace(line, new, 1)
        path = here / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return writer


def refused(name: str | None, *overrides: str) -> str:
    with pytest.raises(UsageError) as error:
        load_recipe(name, overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def configs(config: Any) -> Iterator[Any]:
    """A dataclass and all dataclasses in it."""
    yield config
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from configs(value)


def assert_holds(config: Any, table: Mapping[str, Any]) -> None:
    for key, written in table.items():
        value = getattr(config, key)
        if dataclasses.is_dataclass(value):
            assert_holds(value, written)
        elif isinstance(value, Path):
            assert str(value) == written
        else:
            assert value == written, key


def test_digits_is_built_in():
    assert {"digits", "spoken-digits"} <= set(BUILT_IN)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_recipe_loads_under_its_own_name(name: str, here: Path):
    source = load_recipe(name)
    assert source.recipe.name == name
    assert name in source.origin
    assert source.folder == here


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_key_of_a_built_in_recipe_is_what_its_file_says(name: str):
    table = tomllib.loads((BUILT_IN_RECIPES / f"{name}.toml").read_text())
    assert_holds(load_recipe(name).recipe, table)


@pytest.mark.parametrize("name", BUILT_IN)
def test_no_field_of_a_recipe_can_be_set(name: str):
    for config in configs(load_recipe(name).recipe):
        for field in dataclasses.fields(config):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(config, field.name, getattr(config, field.name))


def test_without_a_name_the_file_here_is_taken(write: Write, here: Path):
    write("edgekd.toml")
    source = load_recipe(None)
    assert (source.recipe.name, source.origin, source.folder) == ("mine", "edgekd.toml", here)


def test_without_a_name_and_file_the_default_is_digits():
    source = load_recipe(None)
    assert source.recipe.name == "digits"
    assert "built-in" in source.origin


def test_a_folder_called_edgekd_toml_is_not_a_recipe(here: Path):
    (here / "edgekd.toml").mkdir()
    assert load_recipe(None).recipe.name == "digits"


def test_a_named_recipe_goes_before_the_file_here(write: Write):
    write("edgekd.toml")
    assert load_recipe("digits").recipe.name == "digits"


def test_a_broken_file_here_is_not_passed_over(here: Path):
    (here / "edgekd.toml").write_text("name = = 1")
    assert refused(None).startswith("edgekd.toml: ")


@pytest.mark.parametrize("file", ["mine.toml", "sub/mine.toml", "./sub/mine", "plain"])
def test_a_file_is_found_by_its_path(file: str, write: Write):
    path = write(file)
    source = load_recipe(file)
    assert source.recipe.name == "mine"
    assert source.folder == path.parent.resolve()


@pytest.mark.parametrize("file", ["nowhere.toml", "sub/nowhere"])
def test_a_missing_file_is_named(file: str):
    assert refused(file) == f"{file}: no such file"


def test_an_unknown_name_suggests_the_nearest():
    message = refused("digts")
    assert "'digts'" in message
    assert "did you mean 'digits'?" in message


def test_a_far_off_name_lists_what_there_is():
    message = refused("zzz")
    assert all(name in message for name in BUILT_IN)


def test_a_file_that_is_not_text_is_named(here: Path):
    (here / "x.toml").write_bytes(b"name = '\xff\xfe'")
    assert refused("x.toml").startswith("x.toml: ")


def test_a_folder_is_not_a_recipe(here: Path):
    (here / "folder").mkdir()
    assert refused("folder/").startswith("folder")


def test_an_error_in_a_file_names_the_file(write: Write):
    write("mine.toml", seed="sed = 0")
    message = refused("mine.toml")
    assert message.startswith("mine.toml: ")
    assert "did you mean 'seed'?" in message


def test_overrides_apply_to_a_built_in_recipe():
    assert load_recipe("digits", ["distill.weight=0.5"]).recipe.distill.weight == 0.5


PATHS = {
    "task.data": lambda recipe: recipe.task.data,
    "teacher.weights": lambda recipe: recipe.teacher.weights,
    "student.weights": lambda recipe: recipe.student.weights,
}


def resolved(name: str, key: str, *overrides: str) -> Path:
    return PATHS[key](resolve_paths(load_recipe(name, overrides)))


@pytest.fixture
def with_paths(here: Path) -> str:
    """A recipe in a folder below, with a relative path for each key that takes one."""
    text = DIGITS.replace(TRAIN, "").replace("mean = 128", 'mean = 128\ndata = "data"')
    text = text.replace("# weights = ", 'weights = "data" # ').replace("[distill]", 'weights = "data"\n[distill]', 1)
    (here / "sub").mkdir()
    (here / "sub/mine.toml").write_text(text)
    return "sub/mine.toml"


@pytest.mark.parametrize("key", PATHS)
def test_a_path_in_the_file_is_relative_to_the_file(key: str, with_paths: str, here: Path):
    assert resolved(with_paths, key) == here / "sub/data"


@pytest.mark.parametrize("key", PATHS)
@pytest.mark.parametrize("written", ["data", '"data"', "'data'", " data", "./data", "../here/data"])
def test_a_path_in_an_override_is_relative_to_the_current_folder(key: str, written: str, with_paths: str, here: Path):
    assert resolved(with_paths, key, f"{key}={written}") == here / "data"


@pytest.mark.parametrize("key", PATHS)
def test_an_absolute_path_in_an_override_stays(key: str, with_paths: str, tmp_path: Path):
    assert resolved(with_paths, key, f"{key}={tmp_path / 'x'}") == tmp_path / "x"


@pytest.mark.parametrize("key", PATHS)
def test_a_path_in_an_override_may_start_at_home(
    key: str, with_paths: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolved(with_paths, key, f"{key}=~/data") == tmp_path / "data"


def test_a_path_in_the_file_may_start_at_home(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write("sub/mine.toml", mean='data = "~/data"')
    assert resolved("sub/mine.toml", "task.data") == tmp_path / "data"


def test_the_path_of_a_file_with_odd_characters_is_taken_as_it_is(here: Path):
    assert resolved("digits", "task.data", "task.data=a = 'b' #c") == here / "a = 'b' #c"


def test_paths_that_are_not_given_stay_none():
    recipe = resolve_paths(load_recipe("digits"))
    assert [path(recipe) for path in PATHS.values()] == [None, None, None]


def test_a_teacher_needs_weights_or_training(here: Path):
    (here / "x.toml").write_text(DIGITS.replace(TRAIN, ""))
    message = refused("x.toml")
    assert "teacher" in message
    assert "weights" in message
    assert "train" in message


def test_a_teacher_cannot_have_both_weights_and_training():
    assert "teacher" in refused("digits", "teacher.weights=x.safetensors")


def test_a_teacher_with_weights_alone_is_read(here: Path):
    (here / "x.toml").write_text(DIGITS.replace(TRAIN, ""))
    teacher = load_recipe("x.toml", ["teacher.weights=w.safetensors"]).recipe.teacher
    assert teacher.train is None
    assert teacher.weights == here / "w.safetensors"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["task.f_max=4000.5"], ["f_max", "4000.5", "8000"]),
        (["task.sample_rate=6000"], ["f_max", "4000", "6000"]),
        (["task.f_min=4000.0"], ["f_min", "4000"]),
        (["task.f_min=4500.0"], ["f_min", "4500"]),
        (["task.n_fft=255"], ["n_fft", "255", "256"]),
        (["task.clip_seconds=0.031"], ["clip_seconds", "0.031"]),
    ],
)
def test_an_audio_task_that_does_not_hold_together_is_refused(overrides: list[str], words: list[str]):
    message = refused("spoken-digits", *overrides)
    assert all(word in message for word in words), message


@pytest.mark.parametrize("override", ["task.f_max=4000.0", "task.n_fft=256", "task.clip_seconds=0.032"])
def test_an_audio_task_at_the_limit_is_read(override: str):
    assert isinstance(load_recipe("spoken-digits", [override]).recipe, Recipe)


LOSSES = """[[distill.losses]]
kind = "dkd"
[distill.balance]
kind = "dynamic-average"
"""


def own(text: str) -> str:
    """The digits recipe with other losses."""
    lines = [line for line in DIGITS.splitlines() if not line.startswith(("temperature", "weight = "))]
    return "\n".join(lines).replace("[distill.train]", f"{text}\n[distill.train]")


def test_losses_are_read_with_their_balance(here: Path):
    (here / "mine.toml").write_text(own(LOSSES))
    objective = load_recipe("mine.toml").recipe.distill.objective("classification")
    assert [loss.kind for loss in objective.losses] == ["dkd"]
    assert objective.balance.kind == "dynamic-average"


def test_losses_that_make_no_sense_for_the_outputs_are_refused(here: Path):
    (here / "mine.toml").write_text(own(LOSSES))
    with pytest.raises(UsageError, match="'dkd' is not for regression"):
        load_recipe("mine.toml").recipe.distill.objective("regression")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LOSSES.replace('"dkd"', '"dkd"\nweight = 0.0'), "sum to nothing"),
        (LOSSES.replace('"dkd"', '"dkt"'), "'dkt'"),
        (LOSSES.replace('"dkd"', '"dkd"\nalhpa = 1.0'), "did you mean 'alpha'?"),
        (LOSSES.replace('"dkd"', '"soft"\ntemperature = 0.0'), "greater than 0"),
        ('[distill.balance]\nkind = "uncertainty"', "it balances"),
    ],
)
def test_losses_that_do_not_hold_together_are_refused(text: str, words: str, here: Path):
    (here / "mine.toml").write_text(own(text))
    assert words in refused("mine.toml")


def test_the_short_form_and_losses_exclude_each_other(here: Path):
    (here / "mine.toml").write_text(DIGITS.replace("[distill.train]", f"{LOSSES}\n[distill.train]"))
    assert "either 'temperature'" in refused("mine.toml")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["distill.train.momentum=0.9"], ["momentum", "'sgd'"]),
        (["distill.train.warmup=0.1"], ["warmup", "'cosine'"]),
        (["distill.train.warmup=0.1", "distill.train.schedule=constant"], ["warmup", "'cosine'"]),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(overrides: list[str], words: list[str]):
    message = refused("digits", *overrides)
    assert all(word in message for word in words), message


@pytest.mark.parametrize("bits", ["3", "0", "16", "4.5", "four"])
def test_weights_have_4_or_8_bits(bits: str, here: Path):
    assert load_recipe("digits", ["quantize.weight_bits=4"]).recipe.quantize.weight_bits == 4
    assert "'quantize.weight_bits': should be 4 or 8" in refused("digits", f"quantize.weight_bits={bits}")
