"""The wheel carries its data files and works with nothing but the core dependencies."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", str(out), str(ROOT)], check=True)
    return next(out.glob("*.whl"))


def test_targets_and_devices_are_inside_the_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"edgekd/targets/tflite-arm.toml", "edgekd/devices/local.toml"} <= set(names)
    assert {"edgekd/devices/agent/main.c", "edgekd/devices/libraries/wheels.toml"} <= set(names)
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"edgekd"}


def test_it_runs_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), str(wheel)]
    subprocess.run(pip, check=True)
    command = tmp_path / "env" / "bin" / "edgekd"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(command), *arguments], cwd=tmp_path, env=clean, capture_output=True, text=True, check=False
        )

    assert "tflite-arm" in run("targets").stdout
    assert "local" in run("devices").stdout
    build = run("build", "--target", "tflite-arm")
    assert build.returncode == 3
    assert "pip install 'edgekd[tflite]'" in build.stderr
    assert len(build.stderr.splitlines()) == 1
