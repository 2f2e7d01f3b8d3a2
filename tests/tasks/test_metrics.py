import json
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, log_softmax, softmax
from sklearn import metrics as reference

from edgekd.distill.config import Outputs
from edgekd.tasks.metrics import BINS, SCORES, TITLES, evaluate, score, shown

NAMES = ("ant", "bee", "cow", "dog", "eel", "fox")
SAMPLES = 400


def classes(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits that are right more often than not, labels, and a better teacher's logits."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, len(NAMES), SAMPLES)
    right = np.eye(len(NAMES))[labels]
    noise = [random.normal(size=right.shape) for _ in range(2)]
    return (1.5 * right + noise[0]).astype(np.float32), labels, (3 * right + noise[1]).astype(np.float32)


def sets(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = (random.random((SAMPLES, len(NAMES))) < np.linspace(0.1, 0.9, len(NAMES))).astype(np.int64)
    noise = [random.normal(size=labels.shape) for _ in range(2)]
    return (2 * labels - 1 + noise[0]).astype(np.float32), labels, (4 * labels - 2 + noise[1]).astype(np.float32)


def numbers(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = (random.normal(size=(SAMPLES, len(NAMES))) * 3 + 100).astype(np.float32)
    noise = [random.normal(size=labels.shape) for _ in range(2)]
    return (labels + noise[0]).astype(np.float32), labels, (labels + noise[1] / 10).astype(np.float32)


MADE: dict[Outputs, Any] = {"classification": classes, "multi-label": sets, "regression": numbers}


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("seed", range(3))
def test_the_score_is_one_of_the_metrics(kind: Outputs, seed: int) -> None:
    outputs, labels, _ = MADE[kind](seed)
    found = evaluate(outputs, labels, kind, NAMES)
    assert score(outputs, labels, kind) == pytest.approx(found[SCORES[kind]], abs=1e-6)
    assert SCORES[kind] in TITLES


@pytest.mark.parametrize("kind", MADE)
def test_metrics_are_json_and_those_against_the_teacher_need_it(kind: Outputs) -> None:
    outputs, labels, teacher = MADE[kind]()
    alone, beside = evaluate(outputs, labels, kind, NAMES), evaluate(outputs, labels, kind, NAMES, teacher)
    assert json.loads(json.dumps(beside)) == beside
    assert {name: beside[name] for name in alone} == alone
    assert set(beside) - set(alone) == ({"rmse_to_teacher"} if kind == "regression" else {"agreement", "kl"})


def test_accuracy_is_the_share_of_rows_with_the_right_largest_logit() -> None:
    logits = np.array([[1.0, 0.0, -1.0], [0.0, 0.1, 0.2], [5.0, 4.0, 6.0], [0.0, 0.0, 1.0]])
    assert score(logits, np.array([0, 2, 0, 1]), "classification") == 0.5


def test_classes_as_scikit_learn_counts_them() -> None:
    logits, labels, _ = classes()
    found, answers = evaluate(logits, labels, "classification", NAMES), logits.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(labels, answers))
    assert found["macro_f1"] == pytest.approx(reference.f1_score(labels, answers, average="macro"), abs=1e-6)
    assert found["top_k"]["k"] == 3
    assert found["top_k"]["accuracy"] == pytest.approx(reference.top_k_accuracy_score(labels, logits, k=3))
    rows = zip(*reference.precision_recall_fscore_support(labels, answers), strict=True)
    for one, name, row in zip(found["per_class"], NAMES, rows, strict=True):
        assert one["name"] == name
        assert [one[key] for key in ("precision", "recall", "f1", "count")] == pytest.approx(row, abs=1e-6)


def test_two_and_three_classes_have_no_top_k() -> None:
    logits, labels, _ = classes()
    chosen = labels < 3
    assert "top_k" not in evaluate(logits[chosen][:, :3], labels[chosen], "classification", NAMES[:3])


def test_a_class_that_is_neither_there_nor_found_does_not_count() -> None:
    logits, labels = np.eye(6, dtype=np.float32)[[0, 1, 1, 2]] * 5, np.array([0, 1, 2, 2])
    assert evaluate(logits, labels, "classification", NAMES)["macro_f1"] == pytest.approx(
        reference.f1_score(labels, [0, 1, 1, 2], average="macro"), abs=1e-6
    )


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Guo et al. 2017, equation 3: bins of equal width."""
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    parts = [(places == place) for place in range(BINS)]
    return sum(abs(right[p].mean() - confidence[p].mean()) * p.mean() for p in parts if p.any())


def test_the_calibration_error_is_that_of_equal_bins() -> None:
    logits, labels, _ = classes()
    confidence, right = softmax(logits, axis=1).max(axis=1), logits.argmax(axis=1) == labels
    found = evaluate(logits, labels, "classification", NAMES)
    assert found["calibration_error"] == pytest.approx(calibration_error(confidence, right), abs=1e-6)


def test_a_model_that_is_sure_and_wrong_is_badly_calibrated() -> None:
    logits = np.eye(6, dtype=np.float32)[[0] * 10] * 50
    found = evaluate(logits, np.array([0] * 4 + [1] * 6), "classification", NAMES)
    assert found["calibration_error"] == pytest.approx(0.6, abs=1e-6)


def test_classes_against_the_teacher() -> None:
    logits, labels, teacher = classes()
    found = evaluate(logits, labels, "classification", NAMES, teacher)
    p, q = (log_softmax(one.astype(np.float64), axis=1) for one in (teacher, logits))
    assert found["kl"] == pytest.approx(float((np.exp(p) * (p - q)).sum(axis=1).mean()), rel=1e-6)
    assert found["agreement"] == pytest.approx((logits.argmax(1) == teacher.argmax(1)).mean())
    same = evaluate(teacher, labels, "classification", NAMES, teacher)
    assert (same["agreement"], same["kl"]) == (1.0, pytest.approx(0.0, abs=1e-9))


def test_a_teacher_that_is_certain_has_a_finite_divergence() -> None:
    logits, labels, _ = classes()
    certain = (np.eye(6, dtype=np.float32)[labels] - 1) * 1e4
    found = evaluate(logits, labels, "classification", NAMES, certain)
    expected = -log_softmax(logits.astype(np.float64), axis=1)[np.arange(SAMPLES), labels].mean()
    assert found["kl"] == pytest.approx(expected, rel=1e-6)


def test_sets_of_labels_as_scikit_learn_counts_them() -> None:
    logits, labels, _ = sets()
    found, answers = evaluate(logits, labels, "multi-label", NAMES), (logits > 0).astype(int)
    for average in ("macro", "micro"):
        expected = reference.f1_score(labels, answers, average=average)
        assert found[f"{average}_f1"] == pytest.approx(expected, abs=1e-6)
    assert found["subset_accuracy"] == pytest.approx(reference.accuracy_score(labels, answers))
    assert found["label_accuracy"] == pytest.approx(1 - reference.hamming_loss(labels, answers))
    rows = zip(*reference.precision_recall_fscore_support(labels, answers), strict=True)
    for one, row in zip(found["per_class"], rows, strict=True):
        assert [one[key] for key in ("precision", "recall", "f1", "count")] == pytest.approx(row, abs=1e-6)


def test_a_label_that_is_never_there_and_never_found_scores_nothing() -> None:
    logits, labels = np.array([[1.0, -1.0], [-1.0, -1.0]], dtype=np.float32), np.array([[1, 0], [0, 0]])
    assert score(logits, labels, "multi-label") == 0.5
    assert evaluate(logits, labels, "multi-label", NAMES[:2])["macro_f1"] == 0.5


def test_sets_of_labels_against_the_teacher() -> None:
    logits, labels, teacher = sets()
    found = evaluate(logits, labels, "multi-label", NAMES, teacher)
    p, q = expit(teacher.astype(np.float64)), expit(logits.astype(np.float64))
    divergence = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    assert found["kl"] == pytest.approx(divergence.mean(), rel=1e-6)
    assert found["agreement"] == pytest.approx(((logits > 0) == (teacher > 0)).all(axis=1).mean())


def test_numbers_as_scikit_learn_counts_them() -> None:
    outputs, labels, teacher = numbers()
    found = evaluate(outputs, labels, "regression", NAMES, teacher)
    given, wanted = outputs.astype(np.float64), labels.astype(np.float64)
    assert found["r2"] == pytest.approx(reference.r2_score(wanted, given), abs=1e-9)
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(wanted, given))
    assert found["rmse"] == pytest.approx(np.sqrt(reference.mean_squared_error(wanted, given)))
    assert found["rmse_to_teacher"] == pytest.approx(np.sqrt(((given - teacher) ** 2).mean()))
    each = reference.r2_score(wanted, given, multioutput="raw_values")
    for place, (one, r2) in enumerate(zip(found["per_output"], each, strict=True)):
        off = given[:, place] - wanted[:, place]
        expected = [np.abs(off).mean(), np.sqrt((off**2).mean()), r2]
        assert [one[key] for key in ("mae", "rmse", "r2")] == pytest.approx(expected, abs=1e-9)


def test_the_mean_has_an_r2_of_0_and_worse_is_below() -> None:
    labels = np.arange(10, dtype=np.float32)[:, None]
    assert score(np.full_like(labels, 4.5), labels, "regression") == pytest.approx(0.0)
    assert score(labels[::-1], labels, "regression") == pytest.approx(-3.0)
    assert score(labels, labels, "regression") == 1.0


def test_one_number_is_a_regression_too() -> None:
    labels = np.arange(10, dtype=np.float32)[:, None]
    found = evaluate(labels + 1, labels, "regression", ("age",))
    assert [found["mae"], found["rmse"]] == pytest.approx([1, 1])
    assert found["per_output"][0]["name"] == "age"


def test_scores_are_written_as_people_read_them() -> None:
    assert shown(0.97504, "accuracy") == "97.50 %"
    assert shown(-0.25, "r2") == "-0.2500"
