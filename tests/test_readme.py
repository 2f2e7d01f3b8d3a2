"""What a stranger can do with the README alone."""

import json
import re
from pathlib import Path

from tests.conftest import edgekd

README = (Path(__file__).parent.parent / "README.md").read_text()


def code_block(language: str) -> str:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)[0]


def test_the_example_builds_as_written(tmp_path: Path) -> None:
    (tmp_path / "bars.py").write_text(code_block("python"))
    (tmp_path / "edgekd.toml").write_text(code_block("toml"))
    plan = edgekd(tmp_path, "plan", "--target", "tflite-arm")
    assert plan.code == 0, plan.stderr
    run = edgekd(tmp_path, "build", "--target", "tflite-arm", "--json", "--set", "measure.protocol=rapid")
    assert run.code == 0, run.stderr
    artifact = run.document["artifacts"][0]
    assert artifact["accuracy"]["exported"] >= 0.95
    assert artifact["quantizers"]["exact"] == artifact["quantizers"]["learned"]
    manifest = json.loads((tmp_path / "build" / "bars" / "tflite-arm" / "manifest.json").read_text())
    assert manifest["labels"] == ["row", "column", "cross"]
    (tmp_path / "bars.py").write_text(code_block("python").replace("1200", "1201"))
    changed = edgekd(tmp_path, "plan", "--target", "tflite-arm", "--json")
    assert [step["name"] for step in changed.document["steps"] if step["cached"]] == ["preflight[tflite-arm]"]


def test_the_example_is_short() -> None:
    assert len([line for line in code_block("python").splitlines() if line.strip()]) <= 30


def test_every_command_of_the_table_exists(tmp_path: Path) -> None:
    for verb in ("build", "plan", "verify", "bench", "report", "init", "targets", "devices", "doctor"):
        assert edgekd(tmp_path, verb, "--help").code == 0
        assert verb in README
