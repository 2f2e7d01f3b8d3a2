"""Targets: those that come with edgekd, and a user's own TOML file."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekd.errors import UsageError
from edgekd.keys import Fingerprints
from edgekd.plan import Plan, make_plan
from edgekd.recipe import load_recipe
from edgekd.resources import TARGETS
from edgekd.target import FORMATS, load_target, target_label, target_names

MINE = """
title = "My board"
format = "tflite"
runtime = "ai-edge-litert"
precision = "float16"
output = "probabilities"
devices = []

[parity]
agreement = 0.98
max_abs_diff = 0.01

[coverage]
undelegated = 3
"""
Written = Callable[..., str]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Write a target file with some lines changed; returns its path."""

    def write(*changes: tuple[str, str], name: str = "mine.toml") -> str:
        text = MINE
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def plan(folder: Path, *targets: str) -> Plan:
    return make_plan(load_recipe("digits").recipe, targets, Fingerprints(folder / "fingerprints.json"))


def refusal(name: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_target(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", target_names())
def test_every_target_that_comes_along_holds_together(name: str) -> None:
    target = load_target(name)
    assert target.format in FORMATS[target.runtime]
    assert target == load_target(str(TARGETS / f"{name}.toml"))
    assert target_label(name) == target_label(str(TARGETS / f"{name}.toml")) == name


def test_a_file_of_the_users_is_a_target(written: Written) -> None:
    target = load_target(written())
    assert (target.title, target.precision, target.output) == ("My board", "float16", "probabilities")
    assert (target.parity.agreement, target.parity.max_abs_diff, target.parity.max_lsb) == (0.98, 0.01, None)
    assert target.parity.samples == 200
    assert (target.coverage.undelegated, target.coverage.layout_changes, target.coverage.float_islands) == (
        3,
        None,
        None,
    )


def test_no_limit_of_coverage_has_to_be_given(written: Written) -> None:
    target = load_target(written(("undelegated = 3", "")))
    assert target.coverage.undelegated is None


def test_a_file_is_planned_under_its_own_name(written: Written, tmp_path: Path) -> None:
    made = plan(tmp_path, written(name="my-board.toml"))
    assert [target.name for target in made.targets] == ["my-board"]
    assert {"preflight[my-board]", "verify[my-board]", "export[tflite float16 probabilities]"} <= set(made.by_name)
    assert made.by_name["export[tflite float16 probabilities]"].inputs["student"] == "student"


def test_equal_files_have_equal_keys_whatever_they_are_called(written: Written, tmp_path: Path) -> None:
    one, other = plan(tmp_path, written(name="one.toml")), plan(tmp_path, written(name="other.toml"))
    assert one.keys["verify[one]"] == other.keys["verify[other]"]


@pytest.mark.parametrize(
    "change",
    [
        ("0.98", "0.97"),
        ("max_abs_diff = 0.01", "max_abs_diff = 0.02"),
        ("undelegated = 3", "undelegated = 2"),
        ("undelegated = 3", "float_islands = 3"),
        ('"probabilities"', '"logits"'),
    ],
)
def test_a_changed_limit_is_another_check(change: tuple[str, str], written: Written, tmp_path: Path) -> None:
    before, after = plan(tmp_path, written()), plan(tmp_path, written(change))
    assert before.keys["verify[mine]"] != after.keys["verify[mine]"]
    assert before.keys["student"] == after.keys["student"]


def test_two_targets_of_one_name_are_refused(written: Written, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "mine.toml"
    other.write_text(MINE)
    with pytest.raises(UsageError, match="two are called 'mine'"):
        plan(tmp_path, written(), str(other))
    with pytest.raises(UsageError, match="two are called 'tflite-arm'"):
        plan(tmp_path, "tflite-arm", written(name="tflite-arm.toml"))


@pytest.mark.parametrize("name", ["..toml", "...toml", ".toml", "my board.toml", "-x.toml", "a:b.toml"])
def test_a_file_whose_name_is_none_for_a_folder_is_refused(name: str, written: Written, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(name)):
        plan(tmp_path, written(name=name))


@pytest.mark.parametrize(
    ("runtime", "format_name"),
    [(runtime, name) for runtime in FORMATS for name in ("tflite", "onnx", "ort", "openvino", "coreml")],
)
def test_a_runtime_takes_its_own_formats_alone(runtime: str, format_name: str, written: Written) -> None:
    changes = ('"ai-edge-litert"', f'"{runtime}"'), ('"tflite"', f'"{format_name}"'), ('"float16"', '"float32"')
    name = written(*changes)
    if format_name in FORMATS[runtime]:
        assert load_target(name).format == format_name
        return
    message = refusal(name)
    assert f"{runtime} does not open {format_name} files" in message
    opening = [one for one, formats in FORMATS.items() if format_name in formats]
    assert all(one in message for one in opening)
    assert name in message


@pytest.mark.parametrize(
    ("precision", "limit", "missing"),
    [
        ("int8", "max_abs_diff = 0.01", "max_lsb"),
        ("int8-weights", "max_lsb = 8", "max_abs_diff"),
        ("float16", "max_lsb = 8", "max_abs_diff"),
        ("float32", "", "max_abs_diff"),
        ("int8", "", "max_lsb"),
    ],
)
def test_a_precision_without_its_limit_is_refused(precision: str, limit: str, missing: str, written: Written) -> None:
    message = refusal(written(('"float16"', f'"{precision}"'), ("max_abs_diff = 0.01", limit)))
    assert f"{precision} needs '{missing}'" in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("undelegated = 3", "undelegatd = 3"), ("coverage.undelegatd", "did you mean 'undelegated'?")),
        (("devices = []", "devices = []\ndevise = []"), ("'devise'", "did you mean 'devices'?")),
        (("agreement = 0.98", ""), ("'parity.agreement' is missing",)),
        (('format = "tflite"', ""), ("'format' is missing",)),
        (("agreement = 0.98", "agreement = 1.5"), ("parity.agreement", "1.5")),
        (("max_abs_diff = 0.01", "max_abs_diff = 0"), ("parity.max_abs_diff",)),
        (("undelegated = 3", "undelegated = -1"), ("coverage.undelegated", "-1")),
        (("undelegated = 3", "undelegated = 0.5"), ("coverage.undelegated", "0.5")),
        (('"tflite"', '"tflight"'), ("format", "'tflight'")),
        (('"ai-edge-litert"', '"litert"'), ("runtime", "'litert'")),
        (('"float16"', '"int4"'), ("precision", "'int4'")),
        (('"probabilities"', '"scores"'), ("output", "'scores'")),
        (("[parity]", "[parity"), ("not valid TOML",)),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) and len(value) == 2 else None,
)
def test_what_does_not_fit_is_told_by_file_and_key(
    change: tuple[str, str], words: tuple[str, ...], written: Written
) -> None:
    name = written(change)
    message = refusal(name)
    assert name in message
    assert all(word in message for word in words), message


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(str(tmp_path / "gone.toml"))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x00\x01"])
def test_a_file_that_is_no_text_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(content)
    assert str(tmp_path / "mine.toml") in refusal(str(tmp_path / "mine.toml"))
