"""Runtime libraries out of pinned wheels: the right files for each architecture, and no others taken."""

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from edgekd.errors import DependencyError, DeviceError
from edgekd.runners import libraries as module
from edgekd.runners.libraries import Wheel, find, libraries, unpack
from tests.runners.peers import needed

MACHINES = {"x86_64": (2, 62), "aarch64": (2, 183), "armv7": (1, 40)}
"""What an ELF header says: its class (1 is 32 bits, 2 is 64) and its machine."""
PAIRS = [
    ("ai-edge-litert", "aarch64"),
    ("onnxruntime", "aarch64"),
    ("openvino", "aarch64"),
    ("tflite-runtime", "aarch64"),
    ("tflite-runtime", "armv7"),
    ("ai-edge-litert", "x86_64"),
    ("onnxruntime", "x86_64"),
    ("openvino", "x86_64"),
]


def pack(file: Path, members: dict[str, bytes], **changes: object) -> Wheel:
    """A wheel of these members and the pin that fits it."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    wheel = Wheel("small", "1.0", "aarch64", "manylinux2014_aarch64", digest, tuple(members))
    return replace(wheel, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("runtime", "architecture"), PAIRS)
def test_the_libraries_are_those_of_the_architecture(runtime: str, architecture: str) -> None:
    files = needed(lambda: libraries(runtime, architecture))
    assert len({file.parent for file in files}) == 1
    for file in files:
        header = file.read_bytes()[:20]
        assert header[:4] == b"\x7fELF"
        assert (header[4], int.from_bytes(header[18:20], "little")) == MACHINES[architecture]
    assert [file.name for file in files] == [Path(name).name for name in find(runtime, architecture).files]


def test_a_runtime_without_a_wheel_for_the_architecture_is_a_device_error() -> None:
    with pytest.raises(DeviceError, match=r"onnxruntime has no library for armv7 \(it has: x86_64, aarch64\)"):
        libraries("onnxruntime", "armv7")
    with pytest.raises(DeviceError, match="coreml has no library for aarch64"):
        libraries("coreml", "aarch64")


def test_files_are_written_without_their_folders(tmp_path: Path) -> None:
    wheel = pack(tmp_path / "a.whl", {"deep/folder/liba.so": b"a" * 1000, "libb.so": b"b"})
    unpack(tmp_path / "a.whl", wheel, tmp_path / "out")
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == {
        "liba.so": b"a" * 1000,
        "libb.so": b"b",
    }


def test_a_damaged_wheel_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    file = tmp_path / "a.whl"
    wheel = pack(file, {"liba.so": bytes(range(256)) * 16})
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    for damaged in (bytes(content), file.read_bytes()[:-1], b""):
        file.write_bytes(damaged)
        with pytest.raises(DependencyError, match="SHA-256"):
            unpack(file, wheel, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_wheel_that_lacks_a_file_or_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.whl"
    wheel = pack(file, {"liba.so": b"a"}, files=("libz.so",))
    with pytest.raises(DependencyError, match=r"libz\.so"):
        unpack(file, wheel, tmp_path / "out")
    file.write_bytes(b"text")
    with pytest.raises(DependencyError, match="not the wheel"):
        unpack(file, replace(wheel, sha256=hashlib.sha256(b"text").hexdigest()), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_wheel_with_another_digest_is_not_taken_from_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path))
    real = find("tflite-runtime", "armv7")
    monkeypatch.setattr(module, "find", lambda *_: replace(real, sha256="0" * 64))
    with pytest.raises(DependencyError, match=r"tflite-runtime 2\.14\.0 for armv7 cannot be fetched") as refused:
        libraries("tflite-runtime", "armv7")
    assert "\n" not in str(refused.value)
    assert not [file for file in (tmp_path / "libraries").iterdir() if not file.name.endswith(".lock")]


def test_an_index_that_does_not_answer_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path))
    for name, value in {"PIP_INDEX_URL": (tmp_path / "none").as_uri(), "PIP_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DependencyError, match="cannot be fetched") as refused:
        libraries("tflite-runtime", "armv7")
    assert "\n" not in str(refused.value)
