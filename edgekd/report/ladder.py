"""What several settings of one recipe gave, side by side: a table, and accuracy against what it costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.errors import GateError
from edgekd.report.files import write_pair

COSTS = {"bytes": "size", "macs": "MACs", "p50_ms": "latency"}
"""What a front is drawn against, and how people call it."""
UNITS = {"bytes": "size, bytes", "macs": "MACs", "p50_ms": "p50, ms"}
JSON_NAME, HTML_NAME = "ladder.json", "ladder.html"


@dataclass(frozen=True)
class Point:
    """A rung on a target: its score, and what it costs. None where it was not measured."""

    score: float
    costs: Mapping[str, float | None]


def build_ladder(name: str, found: Mapping[str, dict[str, Any] | GateError]) -> dict[str, Any]:
    """All rungs as JSON. found: of each rung its report, or what it failed at."""
    reports = {rung: one for rung, one in found.items() if not isinstance(one, GateError)}
    targets = dict.fromkeys(entry["target"] for report in reports.values() for entry in report["artifacts"])
    return {
        "recipe": name,
        "targets": [_target(target, reports) for target in targets],
        "failed": {rung: str(one) for rung, one in found.items() if isinstance(one, GateError)},
    }


def _target(target: str, reports: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    entries = {rung: entry for rung, one in reports.items() for entry in one["artifacts"] if entry["target"] == target}
    points = {rung: Point(entry["accuracy"]["exported"], _costs(entry)) for rung, entry in entries.items()}
    best = {cost: front(points, cost) for cost in COSTS}
    first = next(iter(entries.values()))
    return {
        "target": target,
        "metric": first["metric"],
        "teacher": first["accuracy"]["teacher"],
        "student_float": first["accuracy"]["student_float"],
        "measured_on": [f"{m['device']} ({m['timing']})" for m in first["measurements"][:1]],
        "rungs": [
            {
                "rung": rung,
                "report": f"{rung}/report.html",
                "accuracy": points[rung].score,
                "params": entry["cost"]["params"],
                **points[rung].costs,
                "p50_interval_ms": _interval(entry),
                "float_layers": len(entry["quantizers"]["float_layers"]),
                "front": [cost for cost in COSTS if rung in best[cost]],
            }
            for rung, entry in entries.items()
        ],
    }


def front(points: Mapping[str, Point], cost: str) -> list[str]:
    """The Pareto front, cheapest first: the points than which none costs less and is as good, or as much and better."""
    known = {name: (value, point.score) for name, point in points.items() if (value := point.costs[cost]) is not None}

    def beaten(name: str) -> bool:
        spent, score = known[name]
        others = (one for one in known.values() if one != known[name])
        return any(other_spent <= spent and other_score >= score for other_spent, other_score in others)

    return sorted((name for name in known if not beaten(name)), key=lambda name: known[name])


def write_ladder(home: Path, document: dict[str, Any]) -> Path:
    """Write `ladder.json` and `ladder.html`; returns the page's path."""
    from edgekd.report.html import render_ladder

    return write_pair(home / JSON_NAME, home / HTML_NAME, document, render_ladder)


def _costs(entry: Mapping[str, Any]) -> dict[str, float | None]:
    measured = _valid(entry)
    return {
        "bytes": entry["bytes"],
        "macs": entry["cost"]["macs"],
        "p50_ms": measured[0]["p50_ms"]["value"] if measured else None,
    }


def _interval(entry: Mapping[str, Any]) -> list[float] | None:
    measured = _valid(entry)
    return [measured[0]["p50_ms"][end] for end in ("low", "high")] if measured else None


def _valid(entry: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    """The first device's measurement, if it is valid."""
    return [one for one in entry["measurements"][:1] if one["valid"]]
