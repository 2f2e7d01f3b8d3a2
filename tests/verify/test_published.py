"""A published target that was changed afterwards, byte by byte: what is wrong is said in one line, and by name."""

import io
import json
import shutil
import struct
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.cli import main
from edgekd.readers import read_graph
from tests.conftest import Run, edgekd, overrides

pytestmark = pytest.mark.slow

RUNTIMES = {
    "tflite": "ai-edge-litert",
    "onnx": "onnxruntime",
    "ort": "onnxruntime",
    "openvino": "openvino",
    "coreml": "coreml",
}
TARGET = """
title = "{name}"
format = "{name}"
runtime = "{runtime}"
precision = "int8"
output = "logits"
devices = []

[parity]
agreement = 0.9
max_lsb = 8
samples = 200

[coverage]
"""
SHORT = (
    "task.augment.views=1",
    "teacher.train.epochs=1",
    "distill.train.epochs=2",
    "quantize.train.epochs=1",
    "quantize.calibration_samples=32",
    "budgets.below_teacher=100",
    "budgets.below_student=100",
)
ACTIVATION, WEIGHT = "blocks/0/0/2/relu/0", "blocks.0.1.0.weight"
CLASSES, WIDTH = 10, 32
"""Of the last layer."""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target of each format."""
    folder = tmp_path_factory.mktemp("published")
    for name, runtime in RUNTIMES.items():
        (folder / f"{name}.toml").write_text(TARGET.format(name=name, runtime=runtime))
    targets = [part for name in RUNTIMES for part in ("--target", f"{name}.toml")]
    run = edgekd(folder, "build", "--recipe", "digits", *targets, *overrides(SHORT))
    assert run.code == 0, run.stderr
    return folder / "build" / "digits"


@pytest.fixture
def copy(published: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A published target that a test may change."""
    return lambda name: Path(shutil.copytree(published / name, tmp_path / name))


def verify(folder: Path, *options: str) -> Run:
    """`edgekd verify` in this process, which has the frameworks loaded."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["edgekd", "verify", str(folder), *options])
        with pytest.raises(SystemExit) as stop:
            main()
    return Run(int(stop.value.code or 0), out.getvalue(), err.getvalue())


def refused(folder: Path, code: int) -> str:
    """The one line that is said of a folder, without the folder's own name."""
    run = verify(folder)
    assert run.stdout == ""
    assert run.code == code, run.stderr
    assert len(run.stderr.splitlines()) == 1, run.stderr
    return run.stderr.replace(str(folder), "FOLDER").rstrip("\n")


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def quantizer(folder: Path, tensor: str) -> dict[str, Any]:
    return next(entry for entry in manifest_of(folder)["quantizers"] if entry["tensor"] == tensor)


def replace_once(folder: Path, old: bytes, new: bytes) -> None:
    """Change the first place in the published model where these bytes stand."""
    for part in manifest_of(folder)["files"]:
        content = (folder / part).read_bytes()
        if part.partition("/")[0] not in ("float32", "golden.npz") and old in content:
            (folder / part).write_bytes(content.replace(old, new, 1))
            return
    raise AssertionError(f"{folder}: the bytes are in no file")


def one_up(values: list[float], kind: str) -> tuple[bytes, bytes]:
    """Numbers as a file holds them, and the same with the last one unit higher in its last place."""
    old = np.array(values, dtype=kind)
    new = old.copy()
    new[-1] = np.nextafter(new[-1], np.array(np.inf, dtype=kind))
    return old.tobytes(), new.tobytes()


def change_activation(folder: Path, name: str) -> None:
    entry = quantizer(folder, ACTIVATION)
    values, kind, before = list(entry["scale"]), "<f4", b""
    if name == "openvino":  # a range, of which this is the upper end
        values = [float(np.float32(entry["high"] - entry["zero_point"][0]) * np.float32(entry["scale"][0]))]
    elif name == "coreml":  # a float16 in the specification: field 7 of 4 bytes, in it field 1 of 2 bytes
        kind, before = "<f2", b"\x3a\x04\x0a\x02"
    old, new = one_up(values, kind)
    replace_once(folder, before + old, before + new)


def change_weight_scale(folder: Path, name: str) -> None:
    kind = "<f2" if name == "coreml" else "<f4"
    replace_once(folder, *one_up(quantizer(folder, WEIGHT)["scale"], kind))


def change_weight(folder: Path) -> None:
    """Turn the largest weight of the last layer around."""
    graph = read_graph(folder / manifest_of(folder)["model"])
    weights = [tensor.constant for tensor in graph.tensors if tensor.dtype == "int8" and tensor.constant is not None]
    last = next(one for one in reversed(weights) if one.size == CLASSES * WIDTH)
    turned = last.copy()
    turned.flat[np.abs(last).argmax()] *= -1
    replace_once(folder, last.tobytes(), turned.tobytes())


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_good_folder_passes(name: str, published: Path) -> None:
    run = verify(published / name, "--json")
    assert (run.code, run.stderr) == (0, "")
    assert run.document["target"] == name
    checks = run.document["checks"]
    assert checks["scales exact"] == "18/18"
    assert checks["golden outputs, largest difference in steps"] == 0
    assert checks["files"] == sum(file.is_file() for file in (published / name).rglob("*")) - 1
    assert verify(published / name).stdout.startswith(f"{published / name}: good (")


@pytest.mark.parametrize("name", RUNTIMES)
def test_one_changed_float_is_caught_and_its_activation_named(name: str, copy: Callable[[str], Path]) -> None:
    folder = copy(name)
    change_activation(folder, name)
    line = refused(folder, 5)
    assert f"activation '{ACTIVATION}': learned {'range' if name == 'openvino' else 'scale'} " in line
    assert line.endswith("the file does not hold what was learned")


@pytest.mark.parametrize("name", RUNTIMES)
def test_one_changed_float_is_caught_and_its_weight_named(name: str, copy: Callable[[str], Path]) -> None:
    folder = copy(name)
    change_weight_scale(folder, name)
    assert f"weight '{WEIGHT}': learned scale " in refused(folder, 5)


@pytest.mark.parametrize("name", RUNTIMES)
def test_one_changed_weight_is_caught(name: str, copy: Callable[[str], Path]) -> None:
    folder = copy(name)
    change_weight(folder)
    line = refused(folder, 5)
    assert "a golden output is" in line or "changed since it was published" in line, line


def test_as_a_command_it_says_the_same(copy: Callable[[str], Path]) -> None:
    folder = copy("tflite")
    change_activation(folder, "tflite")
    run = edgekd(folder.parent, "verify", "tflite", "--json")
    assert run.code == run.document["error"]["code"] == 5
    assert run.stderr == f"edgekd: {run.document['error']['message']}\n"
    assert ACTIVATION in run.stderr


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_missing_file_is_named(name: str, copy: Callable[[str], Path]) -> None:
    folder = copy(name)
    for part in manifest_of(folder)["files"]:
        moved = (folder / part).rename(folder / "elsewhere")
        assert refused(folder, 5).startswith(f"edgekd: FOLDER/{part}: missing")
        moved.rename(folder / part)


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_changed_file_is_caught(name: str, copy: Callable[[str], Path]) -> None:
    """One bit at the end of each: where it is not read as a model, the digest sees it."""
    folder = copy(name)
    for part in manifest_of(folder)["files"]:
        content = (folder / part).read_bytes()
        (folder / part).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert verify(folder).code in (2, 5), part
        (folder / part).write_bytes(content)


def save_golden(folder: Path, **changes: Callable[[np.ndarray], np.ndarray]) -> None:
    with np.load(folder / "golden.npz") as golden:
        arrays = {name: changes.get(name, lambda array: array)(array) for name, array in golden.items()}
    np.savez(folder / "golden.npz", **arrays)


@pytest.mark.parametrize(
    "changes",
    [
        {"input": lambda array: array[:, :4]},
        {"input": lambda array: array.astype(np.float32)},
        {"input": lambda array: array[:0], "output": lambda array: array[:0]},
        {"output": lambda array: array[:, :3]},
        {"output": lambda array: array[:5]},
        {"output": lambda array: array[:1]},
        {"output": lambda array: array * np.float32(np.nan)},
    ],
    ids=["shape", "dtype", "none", "classes", "fewer", "one", "nan"],
)
def test_golden_samples_of_another_model_are_refused(
    changes: dict[str, Callable[[np.ndarray], np.ndarray]], copy: Callable[[str], Path]
) -> None:
    folder = copy("tflite")
    save_golden(folder, **changes)
    line = refused(folder, 5)
    assert line.startswith("edgekd: FOLDER/golden.npz: golden ")
    assert "the model's int8 of shape (1, " in line


def test_golden_outputs_that_are_no_numbers_are_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("onnx")
    save_golden(folder, output=lambda array: array * np.float32(np.nan))
    assert "a golden output is nan steps off" in refused(folder, 5)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"PK\x03\x04" + bytes(64), None, 300], ids=lambda content: str(content)[:9]
)
def test_golden_samples_that_cannot_be_read_are_refused(
    content: bytes | int | None, copy: Callable[[str], Path]
) -> None:
    folder = copy("tflite")
    file = folder / "golden.npz"
    if content is None:
        with file.open("wb") as stream:
            np.save(stream, np.zeros(3))
    else:
        file.write_bytes(file.read_bytes()[:content] if isinstance(content, int) else content)
    assert refused(folder, 2).startswith("edgekd: FOLDER/golden.npz: cannot be read")


def test_a_folder_that_is_no_target_is_refused(tmp_path: Path, published: Path) -> None:
    for folder in (tmp_path, published, tmp_path / "gone", published / "tflite" / "model.tflite"):
        assert "no manifest.json in it" in refused(folder, 2)


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "3", "{}", "[" * 100_000, "\0", '{"rootModelIdentifier": "1"}'], ids=lambda text: text[:9]
)
def test_a_manifest_of_another_kind_is_refused(text: str, copy: Callable[[str], Path]) -> None:
    folder = copy("tflite")
    (folder / "manifest.json").write_text(text)
    assert refused(folder, 2).startswith("edgekd: FOLDER/manifest.json: not ")


def test_a_manifest_cut_anywhere_is_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("tflite")
    text = (folder / "manifest.json").read_text()
    for length in range(0, len(text) - 2, len(text) // 20):
        (folder / "manifest.json").write_text(text[:length])
        assert "manifest.json: not JSON" in refused(folder, 2)


def test_the_manifest_of_something_else_is_refused(copy: Callable[[str], Path], published: Path) -> None:
    folder = copy("tflite")
    for other in (published / "report.json", published / "coreml" / "model.mlpackage" / "Manifest.json"):
        shutil.copy(other, folder / "manifest.json")
        assert "manifest.json: not a manifest of edgekd" in refused(folder, 2)


@pytest.mark.parametrize("key", ["files", "model", "output", "parity", "precision", "quantizers", "runtime", "target"])
def test_a_manifest_without_what_is_needed_is_refused(key: str, copy: Callable[[str], Path]) -> None:
    folder = copy("tflite")
    manifest = manifest_of(folder)
    del manifest[key]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert f"manifest.json: not a manifest of edgekd (KeyError: '{key}')" in refused(folder, 2)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("files", ["model.tflite"]),
        ("files", {"model.tflite": "digest"}),
        ("output", "logits"),
        ("output", {}),
        ("parity", {"limits": {}}),
        ("parity", {"limits": {"max_lsb": None}}),
        ("parity", {"limits": {"max_lsb": "few"}}),
        ("precision", "int4"),
        ("quantizers", []),
        ("quantizers", [1]),
        ("quantizers", {"inputs": 1}),
        ("runtime", "litert"),
        ("model", "float32"),
        ("model", 7),
    ],
    ids=str,
)
def test_a_manifest_with_nonsense_in_it_is_refused(key: str, value: object, copy: Callable[[str], Path]) -> None:
    folder = copy("tflite")
    (folder / "manifest.json").write_text(json.dumps({**manifest_of(folder), key: value}))
    refused(folder, 2)


def test_scales_in_the_manifest_count_too(copy: Callable[[str], Path]) -> None:
    folder = copy("tflite")
    manifest = manifest_of(folder)
    entry = next(entry for entry in manifest["quantizers"] if entry["tensor"] == ACTIVATION)
    (entry["scale"][0],) = struct.unpack("<f", one_up(entry["scale"], "<f4")[1])
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert f"activation '{ACTIVATION}': learned scale" in refused(folder, 5)
