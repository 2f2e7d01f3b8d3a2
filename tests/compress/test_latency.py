"""Pruning by a share of measured latency, with LiteRT. No test says how fast anything is: machines differ."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgekd.artifact import Artifact
from edgekd.compress.latency import share_of_latency
from edgekd.compress.prune import prune
from edgekd.errors import UsageError
from edgekd.keys import Fingerprints
from edgekd.models.build import load_module
from edgekd.models.cost import macs
from edgekd.models.layers import conv_bn_relu
from edgekd.plan import COMPRESSION, Plan, make_plan
from edgekd.recipe import load_recipe, resolve_paths
from edgekd.resources import TARGETS
from edgekd.step import Work
from edgekd.target import load_target
from edgekd.tasks.outline import Outline
from tests.distill.teachers.small import made

EXAMPLE = torch.zeros(1, 1, 24, 24)
SHORT = (
    "task.augment.views=1",
    "teacher.train.epochs=1",
    "student.args={ width = 64, blocks = 1 }",
    "distill.train.epochs=1",
)


def wide() -> nn.Module:
    torch.manual_seed(0)
    layers = (conv_bn_relu(1, 64, 3), conv_bn_relu(64, 64, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4))
    return nn.Sequential(*layers).eval()


def outline() -> Outline:
    return Outline((1, 24, 24), ("a", "b", "c", "d"), "classification", 96, None, {"input": "features"})


@pytest.mark.slow
def test_what_comes_back_was_measured_within_the_share_and_is_not_measured_again(tmp_path: Path) -> None:
    model, target = wide(), load_target("tflite-arm")
    with share_of_latency(model, outline(), target, 0, tmp_path) as share:
        pruned = prune(model, EXAMPLE, share, 0.6, guide=partial(macs, example=EXAMPLE))
        found = share(pruned)
        assert 0 < found <= 0.6
        assert {pruned[0][0].out_channels, pruned[1][0].out_channels} <= {16, 32, 48, 64}
        for parameter in pruned.parameters():
            parameter.data.add_(1.0)
        assert share(pruned) == found
        assert share(wide()) == 1.0
    noted = json.loads((tmp_path / "latency.json").read_text())
    assert 2 <= len(noted) <= 8
    with share_of_latency(model, outline(), target, 0, tmp_path) as share:
        assert share(pruned) == found
    assert json.loads((tmp_path / "latency.json").read_text()) == noted


def planned(folder: Path, share: float, target: str = "tflite-arm") -> Plan:
    entry = f'{{ kind = "prune", latency = {share}, target = "{target}", train = {{ epochs = 1 }} }}'
    recipe = resolve_paths(load_recipe("digits", [*SHORT, f"compress=[{entry}]"]))
    return make_plan(recipe, ["tflite-arm"], Fingerprints(folder / "fingerprints.json"))


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Run a step of a plan and those before it."""
    known: dict[str, Artifact] = {}

    def step_of(plan: Plan, name: str) -> Artifact:
        step, out = plan.by_name[name], tmp_path / name
        if name not in known:
            inputs: Mapping[str, Artifact] = {role: step_of(plan, source) for role, source in step.inputs.items()}
            out.mkdir()
            known[name] = made(out, step.load()(Work(step.config, inputs, out, step.seed)))
        return known[name]

    return step_of


@pytest.mark.slow
def test_the_step_says_what_share_was_measured_and_where(tmp_path: Path, run: Any) -> None:
    pruned = run(planned(tmp_path, 0.9), "prune")
    bought = pruned.facts["bought"]
    assert 0 < bought["latency"].pop("ratio") <= 0.9
    assert bought["latency"] == {"runtime": "ai-edge-litert", "on": "this machine"}
    assert bought["macs"][1] < bought["macs"][0]
    module, _ = load_module(pruned.path, "student")
    assert module(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


@pytest.mark.slow
def test_a_share_that_cannot_be_reached_is_refused_before_training(tmp_path: Path, run: Any) -> None:
    with pytest.raises(
        UsageError, match=r"keep: 0.01 of the cost of \w+ cannot be reached; the least is 0\.\d+, "
    ) as caught:
        run(planned(tmp_path, 0.01), COMPRESSION)
    assert "\n" not in str(caught.value)


def test_a_target_whose_runtime_is_not_on_this_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'prune' cannot measure target 'coreml-ios': coreml does not run on this"):
        planned(tmp_path, 0.5, "coreml-ios")


def test_an_unknown_target_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="target 'tflite-arn' is not known; did you mean 'tflite-arm'"):
        planned(tmp_path, 0.5, "tflite-arn")


def test_what_is_measured_counts_by_its_content(tmp_path: Path) -> None:
    """A target's file under another name is the same; another runtime is not."""
    copy = tmp_path / "mine.toml"
    copy.write_text((TARGETS / "tflite-arm.toml").read_text())
    keys = [planned(tmp_path, 0.5, name).keys for name in ("tflite-arm", str(copy), "onnx-arm")]
    assert keys[0]["prune"] == keys[1]["prune"] != keys[2]["prune"]
    assert keys[0]["student"] == keys[2]["student"]
