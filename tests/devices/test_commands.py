"""What the command line says and how it ends, where devices are concerned."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekd.bench.calibration import CALIBRATIONS, hardware_of
from edgekd.device import load_device
from edgekd.runners.setup import setup
from tests.devices.conftest import Commands, assert_one_line
from tests.runners.peers import needed

FASTER, SLOWER, ALIKE = "{} is faster", "{} is slower", "no difference that this shows"


@pytest.fixture
def off(tmp_path: Path) -> Iterator[Path]:
    """A board at an address where nothing answers."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        profile = tmp_path / "off.toml"
        profile.write_text(f'like = "raspberry-pi-5"\n[ssh]\nhost = "127.0.0.1"\nport = {nobody.getsockname()[1]}\n')
        yield profile


@pytest.fixture
def empty(tmp_path: Path) -> Commands:
    """Commands with nothing in their cache."""
    return Commands(tmp_path)


@pytest.fixture
def core_ml(tmp_path: Path) -> Path:
    """As much of a package as anybody looks at who cannot run it."""
    package = tmp_path / "pixels.mlpackage"
    (package / "Data").mkdir(parents=True)
    manifest = {"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": "model.mlmodel"}}}
    (package / "Manifest.json").write_text(json.dumps(manifest))
    (package / "Data" / "model.mlmodel").write_bytes(b"\x08\x08")
    return package


def test_a_device_that_is_not_known(onnx_file: Path, edgekd: Commands) -> None:
    for words in (("--device", "lokal"), ("--device", "lokal", "--against", onnx_file)):
        assert "did you mean 'local'?" in assert_one_line(edgekd("bench", onnx_file, *words), 2)
    for verb in ("setup", "calibrate"):
        assert "did you mean 'local'?" in assert_one_line(edgekd("devices", verb, "lokal"), 2)


@pytest.mark.parametrize("device", ["emulated-arm64", "emulated-board"])
def test_a_device_that_is_not_set_up(device: str, onnx_file: Path, empty: Commands) -> None:
    for words in (("bench", onnx_file, "--device"), ("devices", "calibrate")):
        line = assert_one_line(empty(*words, device), 3)
        assert line.endswith(f"run: edgekd devices setup {device}")


def test_a_board_without_an_address(onnx_file: Path, edgekd: Commands) -> None:
    for words in (("bench", onnx_file, "--device"), ("devices", "calibrate")):
        line = assert_one_line(edgekd(*words, "raspberry-pi-5"), 2)
        assert 'like = "raspberry-pi-5"' in line
        assert "ssh.host" in line


@pytest.mark.parametrize("device", ["local", "emulated-arm64"])
def test_a_file_for_apple_alone(device: str, core_ml: Path, onnx_file: Path, edgekd: Commands) -> None:
    needed(lambda: setup(load_device(device)))
    assert "Apple" in assert_one_line(edgekd("bench", core_ml, "--device", device), 6)
    assert "Apple" in assert_one_line(edgekd("bench", onnx_file, "--device", device, "--against", core_ml), 6)


def test_a_runtime_that_the_device_has_not(onnx_file: Path, tflite_file: Path, edgekd: Commands) -> None:
    needed(lambda: setup(load_device("emulated-armhf")))
    for words in ((onnx_file,), (tflite_file, "--against", onnx_file)):
        line = assert_one_line(edgekd("bench", *words, "--device", "emulated-armhf"), 6)
        assert "onnxruntime has no library for armv7" in line


@pytest.mark.parametrize(("name", "code"), [("zeros.tflite", 2), ("cut.tflite", 6), ("zeros.onnx", 2), ("cut.onnx", 2)])
def test_a_model_that_is_none(
    name: str, code: int, tflite_file: Path, onnx_file: Path, edgekd: Commands, tmp_path: Path
) -> None:
    """A .tflite that is cut off still begins as one, so that it is the runtime that refuses it."""
    model = tmp_path / name
    whole = tflite_file if model.suffix == ".tflite" else onnx_file
    model.write_bytes(whole.read_bytes()[:200] if model.stem == "cut" else bytes(2000))
    assert name in assert_one_line(edgekd("bench", model), code)
    assert name in assert_one_line(edgekd("bench", whole, "--against", model), code)


def test_two_files_are_compared(tflite_file: Path, onnx_file: Path, edgekd: Commands) -> None:
    run = edgekd("bench", tflite_file, "--against", onnx_file, "--json")
    assert (run.code, run.stderr) == (0, "")
    document = run.document
    assert (document["model"], document["against"]) == (str(tflite_file), str(onnx_file))
    assert (document["device"], document["timing"]) == ("local", "measured")
    ratio = document["ratio"]
    assert 0 < ratio["low"] <= ratio["value"] <= ratio["high"]
    assert ratio["value"] == pytest.approx(document["model_ms"] / document["against_ms"], rel=0.5)
    verdict = FASTER if ratio["high"] < 1 else SLOWER if ratio["low"] > 1 else ALIKE
    assert document["verdict"] == verdict.format(tflite_file.name)
    assert document["runs"] >= document["processes"] * document["blocks"]


@pytest.mark.parametrize(("name", "reason"), [("weights.pt", "'.pt'"), ("absent.onnx", "absent.onnx")])
def test_a_comparison_with_what_nothing_runs(
    name: str, reason: str, onnx_file: Path, edgekd: Commands, tmp_path: Path
) -> None:
    if name == "weights.pt":
        (tmp_path / name).write_bytes(b"PK\x03\x04")
    assert reason in assert_one_line(edgekd("bench", onnx_file, "--against", tmp_path / name), 2)


def test_this_machine_is_set_up_once(edgekd: Commands) -> None:
    def made() -> dict[Path, int]:
        folders = [edgekd.cache / name for name in ("agents", "libraries")]
        return {file: file.stat().st_mtime_ns for folder in folders for file in folder.resolve().glob("*/*")}

    needed(lambda: setup(load_device("local")))
    first = edgekd("devices", "setup", "local", "--json")
    there = made()
    second = edgekd("devices", "setup", "local", "--json")
    for run in (first, second):
        assert (run.code, run.stderr, run.document) == (0, "", {"device": "local"})
    assert made() == there != {}


def test_a_calibration_is_kept_for_the_bound(edgekd: Commands) -> None:
    run = edgekd("devices", "calibrate", "local", "--json")
    assert (run.code, run.stderr) == (0, "")
    document = run.document
    hardware = hardware_of("local", load_device("local"), edgekd.cache / CALIBRATIONS)
    assert hardware.source == f"calibrated on {document['date'][:10]}"
    assert hardware.memory_bandwidth_bytes_per_s == document["bandwidth_bytes_per_s"] > 1e8
    assert hardware.float32_flops_per_s == document["float32_flops_per_s"] > 1e8
    assert hardware.int8_ops_per_s == document["int8_ops_per_s"] > document["float32_flops_per_s"]


def test_a_board_that_is_off_ends_a_build_before_anything_is_made(off: Path, empty: Commands) -> None:
    run = empty("build", "--recipe", "digits", "--target", "tflite-arm", "--device", off, "--device", "local")
    line = run.stderr.splitlines()[-1]
    assert (run.code, run.stdout) == (6, "")
    assert "127.0.0.1" in line
    assert "is the device on" in line
    assert list(empty.store.glob("artifacts/*")) == []
    assert not (empty.folder / "build" / "digits" / "report.json").exists()
