"""Whole builds of digits that shrink their student, and the ladder that compares them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from edgekd.artifact import Artifact, read_manifest
from edgekd.models.build import load_module, parameter_count
from edgekd.readers import read_graph
from edgekd.resources import BUILT_IN_RECIPES
from tests.conftest import QUICK, Run, edgekd, overrides

pytestmark = pytest.mark.slow

TRAIN = "train = { epochs = 2, learning_rate = 3e-3 }"
SLACK = 128
"""Bytes: alignment, and a kind of operation more."""
LADDER = f"""
[ladder.ptq]
quantize.method = "ptq"

[ladder.small]
compress = [
  {{ kind = "prune", macs = 0.5, {TRAIN} }},
  {{ kind = "factorize", rank = 0.5, {TRAIN} }},
  {{ kind = "sparsify", share = 0.25, {TRAIN} }},
]

[ladder.mixed]
quantize = {{ method = "ptq", sensitivity = true, mixed = {{ floor = 0.0 }} }}

[ladder.four]
quantize = {{ method = "ptq", weight_bits = 4 }}

[ladder.impossible]
quantize = {{ method = "ptq", mixed = {{ floor = 1.0 }} }}
student.args.width = 4
distill.train.epochs = 1
budgets.below_teacher = 100
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ladder")
    (folder / "edgekd.toml").write_text((BUILT_IN_RECIPES / "digits.toml").read_text() + LADDER)
    return folder


def built(folder: Path) -> Run:
    settings = (*QUICK, "distill.train.epochs=16", "budgets.below_student=100")
    return edgekd(folder, "build", "--target", "tflite-arm", "--json", *overrides(settings))


@pytest.fixture(scope="module")
def run(place: Path) -> Run:
    return built(place)


def artifact(place: Path, step: str) -> Artifact:
    """The only one of this step in the store."""
    found = [read_manifest(file.parent) for file in (place / ".edgekd").rglob("artifact.json")]
    (one,) = [entry for entry in found if entry is not None and entry.step == step]
    return one


def test_a_rung_that_fails_keeps_no_other_from_its_place(run: Run, place: Path) -> None:
    assert run.code == 5, run.stderr
    ladder = run.document["ladder"]
    assert list(ladder["failed"]) == ["impossible"]
    assert "mixed precision: a score of 1 is not reached; the best is" in ladder["failed"]["impossible"]
    (target,) = ladder["targets"]
    assert [rung["rung"] for rung in target["rungs"]] == ["base", "ptq", "small", "mixed", "four"]
    assert json.loads((place / "build/digits/ladder.json").read_text()) == ladder
    for rung in target["rungs"]:
        model = place / "build/digits" / rung["rung"] / "tflite-arm/model.tflite"
        assert model.stat().st_size == rung["bytes"]
        assert (place / "build/digits" / rung["report"]).is_file()
    assert not (place / "build/digits/impossible/tflite-arm").exists()


def test_rungs_share_what_is_the_same(run: Run) -> None:
    keys = {
        rung: {step["name"]: step["key"] for step in document["steps"]}
        for rung, document in run.document["rungs"].items()
    }
    for name in ("data", "teacher", "outputs", "student"):
        assert len({found[name] for found in keys.values()}) == 1
    assert len({keys[rung]["program"] for rung in ("base", "ptq", "small")}) == 3
    later = [step for rung in ("ptq", "small", "mixed") for step in run.document["rungs"][rung]["steps"]]
    assert all(step["cached"] for step in later if step["name"] in ("data", "teacher", "outputs", "student"))


def test_each_compression_says_what_it_bought(run: Run, place: Path) -> None:
    report = json.loads((place / "build/digits/small/report.json").read_text())
    kinds = [one["config"]["compression"]["kind"] for one in report["compression"]]
    assert kinds == ["prune", "factorize", "sparsify"]
    prune, factorize, sparsify = (one["bought"] for one in report["compression"])
    assert prune["macs"][1] <= 0.5 * prune["macs"][0]
    assert prune["macs"][0] == report["student"]["macs"]
    assert factorize["macs"][0] == prune["macs"][1]
    assert factorize["macs"][1] < factorize["macs"][0]
    assert sparsify["macs"][1] == sparsify["macs"][0]
    assert report["compression"][2]["sparsity"]["zeros"] > 0.1
    assert report["artifacts"][0]["cost"]["macs"] == sparsify["macs"][1]
    assert report["artifacts"][0]["accuracy"]["compressed"] == sparsify["accuracy"][2]
    text = (place / "build/digits/small/report.html").read_text()
    assert f"{prune['macs'][0]:,} → {prune['macs'][1]:,}" in text


def test_a_small_student_is_loaded_in_a_fresh_process(run: Run, place: Path) -> None:
    assert run.code == 5
    kept = artifact(place, "sparsify")
    module, architecture = load_module(kept.path, "student")
    assert [edit["kind"] for edit in architecture.edits] == ["resize", "low-rank"]
    assert parameter_count(module) == kept.facts["params"]
    code = (
        "import sys, torch; from pathlib import Path; from edgekd.models.build import load_module;"
        "module, _ = load_module(Path(sys.argv[1]), 'student');"
        "print(module(torch.arange(64.).reshape(1, 1, 8, 8) / 64).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(kept.path)], capture_output=True, text=True, check=True)
    with torch.no_grad():
        assert json.loads(done.stdout) == module(torch.arange(64.0).reshape(1, 1, 8, 8) / 64).tolist()


def test_zeros_of_the_student_are_zeros_of_the_file(run: Run, place: Path) -> None:
    assert run.code == 5
    file = place / "build/digits/small/tflite-arm/model.tflite"
    weights = [tensor.constant for tensor in read_graph(file).tensors if tensor.dtype == "int8" and tensor.axis == 0]
    dense = [weight for weight in weights if weight is not None and weight.shape[-1] > 3 and weight.shape[0] > 1]
    assert len(dense) > 3
    assert all((weight == 0).mean() >= 0.24 for weight in dense)


def test_sensitivity_is_reported(run: Run, place: Path) -> None:
    report: dict[str, Any] = json.loads((place / "build/digits/mixed/report.json").read_text())
    assert run.code == 5
    assert {one["layer"] for one in report["sensitivity"]} >= {"stem.0", "classifier"}
    assert report["float_layers"] == []


def test_where_weights_of_4_bits_are_stored_is_reported(run: Run, place: Path) -> None:
    assert run.code == 5
    homes = [place / "build/digits" / rung for rung in ("ptq", "four")]
    ptq, four = (json.loads((home / "report.json").read_text())["artifacts"][0] for home in homes)
    assert (ptq["weights"]["bits"], ptq["weights"]["int4"]) == (8, 0)
    assert four["weights"]["bits"] == 4
    assert four["weights"]["int4"] + four["weights"]["int8"] == ptq["weights"]["int8"]
    assert four["bytes"] <= ptq["bytes"] - four["weights"]["int4"] // 2 + SLACK
    words = f"weights: {four['weights']['int4']:,} in 4 bits, {four['weights']['int8']:,} in 8"
    assert words in (homes[1] / "report.html").read_text()
    assert "in 4 bits" not in (homes[0] / "report.html").read_text()


def test_a_second_run_makes_nothing(run: Run, place: Path) -> None:
    assert run.code == 5
    again = built(place)
    assert again.code == 5
    assert all(step["cached"] for document in again.document["rungs"].values() for step in document["steps"])
    assert again.document["ladder"] == run.document["ladder"]
