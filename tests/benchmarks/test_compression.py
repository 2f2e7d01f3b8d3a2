from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.compression import plot, subjects
from benchmarks.compression.rows import FLOAT, HALF_INT8, PTQ, PTQ_4, QAT, QAT_4, TAUGHT_QAT, TAUGHT_QAT_4, rows
from benchmarks.compression.summary import Line, answers, claims, lines, text
from edgekd.compress.order import in_order
from edgekd.recipe import Quantization

SVG = "{http://www.w3.org/2000/svg}"


def line(row: str, accuracy: Sequence[float], size: int = 100, **formats: Sequence[float]) -> Line:
    both = {"tflite": np.array(accuracy), "onnx": np.array(formats.get("onnx", accuracy))}
    return Line(row, both, dict.fromkeys(both, size), 1000, None, {})


def table(**changed: Line) -> dict[str, Line]:
    made = {
        FLOAT: line(FLOAT, [90.0, 92.0, 94.0]),
        PTQ: line(PTQ, [86.0, 88.0, 90.0]),
        QAT: line(QAT, [87.0, 88.0, 92.0]),
        TAUGHT_QAT: line(TAUGHT_QAT, [89.0, 91.0, 93.0]),
        PTQ_4: line(PTQ_4, [86.0, 88.0, 90.0]),
        QAT_4: line(QAT_4, [87.0, 88.0, 92.0]),
        TAUGHT_QAT_4: line(TAUGHT_QAT_4, [89.0, 91.0, 93.0]),
        HALF_INT8: line(HALF_INT8, [89.5, 91.5, 93.5], size=50),
    }
    return made | {one.row: one for one in changed.values()}


def held(made: dict[str, Line], tolerance: float = 0.5, hard: str = "") -> list[bool]:
    return [claim.holds for claim in claims({"audio": made}, {"audio": tolerance}, hard)]


def run(row: str, seed: int, accuracy: float, **more: Any) -> dict[str, Any]:
    return {"row": row, "seed": seed, "accuracy": {"tflite": accuracy}, "bytes": {"tflite": 10}, "macs": 6} | more


def test_half_the_macs_in_int8_may_cost_what_is_tolerated_and_must_be_smaller() -> None:
    assert held(table())[0]
    assert not held(table(), tolerance=0.4)[0]
    assert not held(table(half=line(HALF_INT8, [89.5, 91.5, 93.5], size=100)))[0]
    assert not held(table(half=line(HALF_INT8, [89.5, 91.5, 93.5], size=50, onnx=[89.0, 91.0, 93.0])))[0]


def test_qat_may_be_below_ptq_within_noise_only() -> None:
    assert held(table())[1:] == [True, True, True, True]
    noisy, surely = [80.0, 88.0, 91.0], [85.0, 86.9, 89.0]
    for position, row in enumerate((QAT, TAUGHT_QAT, QAT_4, TAUGHT_QAT_4), start=1):
        assert held(table(qat=line(row, noisy)))[position]
        assert not held(table(qat=line(row, surely)))[position]
    assert not held(table(qat=line(QAT, [87.0, 88.0, 92.0], onnx=surely)))[1]


def test_three_quarters_of_a_loss_beyond_two_points_are_to_be_won_back() -> None:
    assert held(table(), hard="audio")[-1]
    assert not held(table(qat=line(TAUGHT_QAT_4, [88.9, 90.9, 92.9])), hard="audio")[-1]
    assert not held(table(ptq=line(PTQ_4, [88.0, 90.0, 92.0])), hard="audio")[-1]
    assert len(held(table(), hard="text")) == len(held(table(), hard="audio")) - 1


def test_a_claim_is_told_with_its_figures() -> None:
    told = answers(claims({"audio": table()}, {"audio": 0.5}, "")).splitlines()
    assert told[0].startswith("yes")
    assert "TFLite 91.50 against 92.00, 50 against 100 bytes" in told[0]
    assert "QAT is not worse" in told[1]
    assert "+1.00 points, p 0.225" in told[1]


def test_rows_are_means_over_seeds() -> None:
    runs = [run("cut", 1, 0.9, bare=0.4, macs=4), run("cut", 0, 0.8, bare=0.2), run(FLOAT, 0, 1.0, bare=None)]
    made = lines(runs, {"cut": {"tflite": {"value": 0.5, "low": 0.4, "high": 0.6}}})
    assert made["cut"].accuracy["tflite"].tolist() == [80.0, 90.0]
    assert (made["cut"].macs, made["cut"].bare) == (5.0, pytest.approx(30.0))
    header, cut, whole = text(made.values()).splitlines()
    assert cut.split("  ") != whole.split("  ")
    assert "85.00 ± 7.07" in cut
    assert "0.50 (0.40 to 0.60)" in cut
    assert "100.00" in whole
    assert "ONNX" in header


def test_the_picture_has_every_row_of_every_table(tmp_path: Path) -> None:
    timed = Line(
        QAT, {"tflite": np.array([88.0])}, {"tflite": 50}, 10, None, {"tflite": {"value": 0.5, "low": 0.4, "high": 0.6}}
    )
    plot.draw({"one": list(table().values()), "other": [line(FLOAT, [90.0]), timed]}, tmp_path / "tables.svg")
    words = [each.text for each in ElementTree.parse(tmp_path / "tables.svg").iter(f"{SVG}text")]
    assert {"one", "other", PTQ, HALF_INT8} <= set(words)
    assert [words.count(row) for row in (FLOAT, QAT)] == [2, 2]


def test_every_row_is_compressed_in_an_order_that_a_recipe_could_ask_for(tmp_path: Path) -> None:
    for subject in (subjects.audio, subjects.text, subjects.hard):
        found = rows(subject(tmp_path, False))
        assert len({row.name for row in found}) == len(found)
        assert {FLOAT, PTQ, QAT, TAUGHT_QAT, PTQ_4, QAT_4, TAUGHT_QAT_4} <= {row.name for row in found}
        for row in found:
            cuts, _ = in_order(row.cuts, Quantization(method="ptq"))
            assert tuple(cuts) == row.cuts


def test_torchao_trains_what_it_converts_and_its_file_answers_like_that(tmp_path: Path) -> None:
    from benchmarks.alternatives import torchao
    from edgekd.models.evaluate import predict
    from edgekd.runtimes import open_session

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    inputs, trained = torch.randn(32, 1, 8, 8), []

    def train(prepared: nn.Module) -> None:
        prepared.train()
        prepared(inputs)
        prepared.eval()
        trained.append(predict(prepared, inputs))

    session = open_session(torchao.convert(model, torch.zeros(1, 1, 8, 8), train, tmp_path / "model.tflite"))
    found = session.decode(session.run(session.encode(inputs.numpy())))
    step = np.diff(np.unique(trained[0])).min()
    np.testing.assert_allclose(found, trained[0], atol=2.01 * step)
    np.testing.assert_allclose(found, predict(model, inputs), atol=0.1)
