"""A whole build whose student is a folder that transformers saved."""

import json
from pathlib import Path

import pytest

from tests.conftest import edgekd
from tests.distill.teachers.test_builds import NAMES, write_bert, write_task

pytestmark = pytest.mark.slow

RECIPE = f"""
name = "bert"
teacher = {{ kind = "transformers", folder = "bert" }}
student = {{ folder = "bert" }}
distill = {{ train = {{ epochs = 2, learning_rate = 1e-3 }} }}
quantize = {{ train = {{ epochs = 1, learning_rate = 1e-4 }} }}
measure = {{ protocol = "rapid" }}
budgets = {{ below_student = 3 }}

[task]
kind = "text-classification"
source = "edgekd.tasks.text:tsv_folder"
args = {{ names = {json.dumps(NAMES)} }}
data = "task"
length = 12
tokenizer = "bert/tokenizer.json"
"""


def test_a_bert_ends_as_an_int8_file_that_runs_in_one_delegate(tmp_path: Path) -> None:
    write_task(tmp_path / "task")
    write_bert(tmp_path / "bert")
    (tmp_path / "edgekd.toml").write_text(RECIPE)
    run = edgekd(tmp_path, "build", "--target", "tflite-arm", "--json")
    assert run.code == 0, run.stderr
    assert "torchao" not in run.stderr
    (artifact,) = run.document["artifacts"]
    assert artifact["accuracy"]["student_float"] > 0.95
    assert artifact["accuracy"]["exported"] > 0.95
    assert artifact["quantizers"]["exact"] == artifact["quantizers"]["learned"] > 0
    assert artifact["ops"]["undelegated"] == []
    report = json.loads((tmp_path / "build/bert/report.json").read_text())
    assert report["student"]["model"] == "edgekd.models.transformers:classifier"
    assert report["student"]["fresh"] == []
    plan = edgekd(tmp_path, "plan", "--target", "tflite-arm", "--json")
    assert plan.document["student"] == str(tmp_path / "bert")
    assert all(step["cached"] for step in plan.document["steps"] if not step["name"].startswith("preflight"))
