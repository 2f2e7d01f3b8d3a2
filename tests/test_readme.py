"""What a stranger can do with the README alone."""

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from edgekd.config import validate
from edgekd.distill import build_objective
from edgekd.distill.config import ObjectiveConfig
from tests.conftest import edgekd
from tests.distill.test_objectives import KINDS

Answers = Callable[[torch.Tensor], torch.Tensor]
README = (Path(__file__).parent.parent / "README.md").read_text()


def code_block(language: str, place: int = 0) -> str:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)[place]


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
    assert [step["name"] for step in changed.document["steps"] if step["cached"]] == [
        "preflight[objective]",
        "preflight[tflite-arm]",
    ]


def test_the_example_is_short() -> None:
    assert len([line for line in code_block("python").splitlines() if line.strip()]) <= 30


def test_the_losses_are_an_objective() -> None:
    tables = tomllib.loads(code_block("toml", 1))["distill"]
    objective = build_objective(validate(ObjectiveConfig, tables, "README"))
    assert sorted(objective.losses) == ["dkd", "hard", "hint"]


def test_every_kind_of_loss_and_teacher_is_named() -> None:
    section = README.partition("## Distillation")[2].partition("\n## ")[0]
    teachers = ("transformers", "onnx", "tflite", "keras", "command", "http", "stored", "ensemble")
    assert not [kind for kind in (*KINDS, *teachers) if f"`{kind}`" not in section]


def test_a_loop_of_ones_own_learns_from_the_teacher() -> None:
    torch.manual_seed(0)
    teacher, student = nn.Linear(8, 3), nn.Linear(8, 3)
    inputs = torch.randn(64, 8)
    batches = [(inputs, torch.full((64,), -1))] * 200
    before = distance(student, teacher, inputs)
    exec(code_block("python", 1), {"student": student, "teacher": teacher, "batches": batches})
    assert distance(student, teacher, inputs) < before / 2


def test_the_trainer_of_transformers_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "intermediate_size": 16, "num_attention_heads": 2, "num_labels": 3}
    teacher, student = (
        BertForSequenceClassification(BertConfig(hidden_size=16, num_hidden_layers=layers, **sizes))
        for layers in (2, 1)
    )
    teacher.classifier.weight.data *= 50
    ids = torch.randint(1, 20, (64, 6))
    samples = [{"input_ids": row, "labels": logits_of(teacher)(row[None]).argmax()} for row in ids]
    before = distance(logits_of(student), logits_of(teacher), ids)
    exec(code_block("python", 2), {"student": student, "teacher": teacher, "samples": samples})
    assert distance(logits_of(student), logits_of(teacher), ids) < before / 2


def logits_of(model: BertForSequenceClassification) -> Answers:
    return lambda ids: model(input_ids=ids).logits


@torch.no_grad()
def distance(student: Answers, teacher: Answers, inputs: torch.Tensor) -> float:
    """The mean divergence of the two models' answers."""
    answers = [model(inputs).log_softmax(dim=1) for model in (student, teacher)]
    return nn.functional.kl_div(*answers, log_target=True, reduction="batchmean").item()


def test_every_command_of_the_table_exists(tmp_path: Path) -> None:
    for verb in ("build", "plan", "verify", "bench", "report", "init", "targets", "devices", "doctor"):
        assert edgekd(tmp_path, verb, "--help").code == 0
        assert verb in README
