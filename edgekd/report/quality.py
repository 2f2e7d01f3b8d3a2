"""How good teacher, students and exported file are, side by side: tables for the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MODELS = {
    "teacher": "teacher",
    "student_alone": "student alone",
    "student_float": "student, distilled",
    "compressed": "student, compressed",
    "quantized_program": "quantized program",
    "exported": "exported file",
}
METRICS = {
    "accuracy": "accuracy, %",
    "top_k": "one of the first {k}, %",
    "subset_accuracy": "all labels right, %",
    "label_accuracy": "labels right, %",
    "macro_f1": "macro F1, %",
    "micro_f1": "micro F1, %",
    "calibration_error": "expected calibration error, %",
    "agreement": "same answer as the teacher, %",
    "kl": "mean KL to the teacher, nats",
    "r2": "R²",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "rmse_to_teacher": "root mean squared distance to the teacher",
}
PLAIN = ("kl", "r2", "mae", "rmse", "rmse_to_teacher")
"""Not shown in percent."""


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first cell names the row."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def quality_tables(metrics: Mapping[str, Any], baseline: Mapping[str, Any] | None) -> tuple[Table, Table]:
    """All metrics, a model a column; and what there is for each class, label or number.

    metrics: of each model, see `edgekd.tasks.metrics.evaluate`, or None. baseline: the facts of the student alone.
    """
    found = {**metrics, "student_alone": baseline and baseline["metrics"]}
    models = {key: found[key] for key in MODELS if found.get(key)}
    titles = tuple(MODELS[key] for key in models)
    rows = [
        (_title(key, models), *(_cell(key, one.get(key)) for one in models.values()))
        for key in METRICS
        if any(key in one for one in models.values())
    ]
    return Table(("", *titles), tuple(rows)), _parts(models, titles)


def _title(key: str, models: Mapping[str, Any]) -> str:
    counted = [one[key]["k"] for one in models.values() if isinstance(one.get(key), Mapping)]
    return METRICS[key].format(k=counted[0]) if counted else METRICS[key]


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "-"
    number = value["accuracy"] if isinstance(value, Mapping) else value
    return f"{number:.4g}" if key in PLAIN else _percent(number)


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _parts(models: Mapping[str, Any], titles: Sequence[str]) -> Table:
    """Of each class or label: how many there are, precision and recall of the last model, F1 of all. Of each number:
    the errors of the last model, R² of all.
    """
    *_, last = models.values()
    if "per_output" in last:
        header = ("output", "mean absolute error", "root mean squared error", *(f"R², {title}" for title in titles))
        rows = [
            (
                one["name"],
                *(f"{one[key]:.4g}" for key in ("mae", "rmse")),
                *(f"{model['per_output'][place]['r2']:.4f}" for model in models.values()),
            )
            for place, one in enumerate(last["per_output"])
        ]
    else:
        header = ("class", "test samples", "precision, %", "recall, %", *(f"F1, {title}, %" for title in titles))
        rows = [
            (
                one["name"],
                str(one["count"]),
                *(_percent(one[key]) for key in ("precision", "recall")),
                *(_percent(model["per_class"][place]["f1"]) for model in models.values()),
            )
            for place, one in enumerate(last["per_class"])
        ]
    return Table(header, tuple(rows))
