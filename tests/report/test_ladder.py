"""Several settings of a recipe side by side: the front, and the page."""

import json
from pathlib import Path
from typing import Any

import pytest

from edgekd.errors import GateError
from edgekd.report.ladder import Point, build_ladder, front, write_ladder


def point(score: float, size: float | None) -> Point:
    return Point(score, {"bytes": size})


def test_the_front_is_what_nothing_else_beats() -> None:
    points = {
        "large": point(0.99, 400),
        "wasteful": point(0.98, 500),
        "small": point(0.95, 100),
        "worse": point(0.90, 100),
        "unknown": point(1.0, None),
        "middle": point(0.97, 300),
    }
    assert front(points, "bytes") == ["small", "middle", "large"]


def test_equal_points_are_both_on_the_front() -> None:
    assert front({"one": point(0.9, 10), "other": point(0.9, 10)}, "bytes") == ["one", "other"]
    assert front({"none": point(0.9, None)}, "bytes") == []


def entry(score: float, size: int, macs: int, p50: float | None) -> dict[str, Any]:
    taken = {"device": "local", "timing": "measured", "valid": p50 is not None}
    if p50 is not None:
        taken["p50_ms"] = {"value": p50, "low": p50 - 0.01, "high": p50 + 0.01}
    return {
        "target": "tflite-arm",
        "metric": "accuracy",
        "accuracy": {"teacher": 0.99, "student_float": 0.97, "exported": score},
        "bytes": size,
        "cost": {"params": size, "macs": macs},
        "quantizers": {"float_layers": []},
        "measurements": [taken],
    }


@pytest.fixture
def document() -> dict[str, Any]:
    found = {
        "base": {"artifacts": [entry(0.97, 400, 1000, 0.5)]},
        "half": {"artifacts": [entry(0.96, 200, 500, None)]},
        "bad": {"artifacts": [entry(0.90, 500, 1000, 0.4)]},
        "broken": GateError("budget: the student has 38.89 points"),
    }
    return build_ladder("digits", found)


def test_each_cost_has_its_front(document: dict[str, Any]) -> None:
    (target,) = document["targets"]
    fronts = {rung["rung"]: rung["front"] for rung in target["rungs"]}
    assert fronts == {"base": ["bytes", "macs", "p50_ms"], "half": ["bytes", "macs"], "bad": ["p50_ms"]}
    assert target["rungs"][1]["p50_ms"] is None
    assert document["failed"] == {"broken": "budget: the student has 38.89 points"}


def test_the_page_has_a_picture_for_each_cost_and_says_what_failed(document: dict[str, Any], tmp_path: Path) -> None:
    page = write_ladder(tmp_path, document)
    text = page.read_text()
    assert text.count("<svg") == 3
    assert "97.00 %" in text
    assert "half/report.html" in text
    assert "budget: the student has 38.89 points" in text
    assert json.loads((tmp_path / "ladder.json").read_text()) == document


def test_a_ladder_of_which_nothing_came_has_a_page(tmp_path: Path) -> None:
    text = write_ladder(tmp_path, build_ladder("digits", {"base": GateError("budget: no")})).read_text()
    assert "budget: no" in text
