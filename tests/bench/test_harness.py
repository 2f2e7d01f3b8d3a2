import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.bench import harness
from edgekd.bench.harness import generated_inputs, measure
from edgekd.errors import UsageError
from edgekd.export.formats import export_program
from edgekd.export.ort import convert
from edgekd.runtimes import SUFFIXES, open_session
from edgekd.runtimes.session import TensorSpec
from tests.export.small import FEATURES, quantized


def job(model: Path, out: Path, **changes: Any) -> dict[str, Any]:
    settings = {"inputs": None, "runs": 20, "seconds": 0.05, "warmup_runs": 1, "warmup_seconds": 0.0, "threads": 1}
    return {**settings, "model": str(model), "out": str(out), **changes}


def test_samples_are_written_in_nanoseconds(int8_file: Path, tmp_path: Path) -> None:
    result = measure(job(int8_file, tmp_path))
    samples = np.load(tmp_path / "samples.npy")
    assert samples.dtype == np.uint64
    assert samples.ndim == 1
    assert len(samples) >= 20
    assert (samples > 0).all()
    assert result["load_ns"] > 0
    assert result["peak_memory_bytes"] >= result["base_memory_bytes"] > 1_000_000


def test_the_load_time_is_the_runtime_s_own(int8_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(harness, "open_session", lambda *args: opened.append(open_session(*args)) or opened[0])
    assert measure(job(int8_file, tmp_path))["load_ns"] == opened[0].load_ns


def test_every_kind_of_file_has_its_modules_imported_before_its_memory_is_read() -> None:
    assert harness.MODULES.keys() == SUFFIXES.keys() - {".mlpackage"}  # which is not measured here
    for modules in harness.MODULES.values():
        for module in modules:
            assert importlib.util.find_spec(module) is not None


@pytest.mark.parametrize("name", ["onnx", "ort"])
def test_opening_a_model_imports_no_package_that_is_not_there_before(name: str, tmp_path: Path) -> None:
    export_program(quantized(), "onnx", "int8", tmp_path, FEATURES)
    convert(tmp_path / "model.onnx", tmp_path / "model.ort")
    program = """if True:
        import importlib, sys
        from pathlib import Path
        from edgekd.bench.harness import MODULES, open_session
        file = Path(sys.argv[1])
        for module in MODULES[file.suffix]:
            importlib.import_module(module)
        before = {name.partition(".")[0] for name in sys.modules}
        open_session(file)
        print(sorted({name.partition(".")[0] for name in sys.modules} - before))
    """
    command = [sys.executable, "-c", program, str(tmp_path / f"model.{name}")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "[]\n"


def test_it_goes_on_until_there_are_enough_runs(int8_file: Path, tmp_path: Path) -> None:
    measure(job(int8_file, tmp_path, runs=321, seconds=0.0))
    assert len(np.load(tmp_path / "samples.npy")) == 321


def test_it_goes_on_until_the_time_is_over(int8_file: Path, tmp_path: Path) -> None:
    measure(job(int8_file, tmp_path, runs=1, seconds=0.2))
    assert len(np.load(tmp_path / "samples.npy")) > 1


def test_given_inputs_are_used(int8_file: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "inputs.npz", np.zeros((1, 8, 6, 3), dtype=np.int8))
    measure(job(int8_file, tmp_path, inputs=str(tmp_path / "inputs.npz")))
    np.savez(tmp_path / "inputs.npz", np.zeros((1, 9, 9, 9), dtype=np.int8))
    with pytest.raises(ValueError, match="Dimension mismatch"):
        measure(job(int8_file, tmp_path, inputs=str(tmp_path / "inputs.npz")))


def test_generated_inputs_fit_the_model_and_repeat() -> None:
    specs = [
        TensorSpec("a", (1, 40, 40), "int8", 0.1, 0),
        TensorSpec("b", (2, 3), "float32", 0.0, 0),
        TensorSpec("c", (1, 7), "int64", 0.0, 0),
    ]
    first, second = generated_inputs(specs), generated_inputs(specs)
    assert [(one.shape, one.dtype.name) for one in first] == [(one.shape, one.dtype) for one in specs]
    assert all(np.array_equal(*pair) for pair in zip(first, second, strict=True))
    assert (first[0].min(), first[0].max()) == (-128, 127)
    assert not first[2].any()


def test_as_a_process_it_says_what_went_wrong(tmp_path: Path) -> None:
    model = tmp_path / "model.tflite"
    model.write_text("not a model")
    (tmp_path / "job.json").write_text(json.dumps(job(model, tmp_path)))
    done = subprocess.run([sys.executable, "-m", "edgekd.bench.harness", str(tmp_path / "job.json")], check=False)
    assert done.returncode == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["exit_code"] == UsageError.exit_code
    assert "model.tflite" in result["error"]
