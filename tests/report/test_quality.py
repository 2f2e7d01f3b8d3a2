from typing import Any

import numpy as np
import pytest

from edgekd.report.quality import METRICS, quality_tables
from edgekd.tasks.metrics import evaluate
from tests.tasks.test_metrics import MADE, NAMES


def metrics(kind: Any) -> dict[str, Any]:
    outputs, labels, teacher = MADE[kind]()
    return {
        "teacher": evaluate(teacher, labels, kind, NAMES),
        "student_float": evaluate(outputs, labels, kind, NAMES, teacher),
        "quantized_program": None,
        "exported": evaluate(np.round(outputs, 1), labels, kind, NAMES, teacher),
    }


@pytest.mark.parametrize("kind", MADE)
def test_every_metric_has_a_row_and_every_model_a_column(kind: str) -> None:
    found = metrics(kind)
    whole, parts = quality_tables(found, None)
    assert whole.header == ("", "teacher", "student, distilled", "exported file")
    assert {row[0].split(" the first")[0] for row in whole.rows} == {
        METRICS[name].split(" the first")[0] for name in found["exported"] if not name.startswith("per_")
    }
    assert [row[0] for row in parts.rows] == list(NAMES)
    assert all(len(row) == len(table.header) for table in (whole, parts) for row in table.rows)


def test_numbers_are_those_of_the_metrics() -> None:
    found = metrics("classification")
    whole, parts = quality_tables(found, None)
    rows = {row[0]: row[1:] for row in whole.rows}
    assert rows["accuracy, %"][2] == f"{100 * found['exported']['accuracy']:.2f}"
    assert rows["one of the first 3, %"][0] == f"{100 * found['teacher']['top_k']['accuracy']:.2f}"
    assert rows["mean KL to the teacher, nats"] == (
        "-",
        f"{found['student_float']['kl']:.4g}",
        f"{found['exported']['kl']:.4g}",
    )
    bee = found["exported"]["per_class"][1]
    assert parts.rows[1][:4] == (
        "bee",
        str(bee["count"]),
        f"{100 * bee['precision']:.2f}",
        f"{100 * bee['recall']:.2f}",
    )


def test_the_student_alone_stands_beside_the_distilled_one() -> None:
    found = metrics("regression")
    whole, parts = quality_tables(found, {"metrics": found["student_float"], "accuracy": 1.0})
    assert whole.header == ("", "teacher", "student alone", "student, distilled", "exported file")
    assert all(row[2] == row[3] for row in whole.rows)
    assert parts.header[-3] == "R², student alone"
