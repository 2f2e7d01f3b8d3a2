"""How good a model's outputs are: the one score that budgets look at, and all the numbers beside it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.distill.config import Outputs

if TYPE_CHECKING:
    import torch

SCORES: dict[Outputs, str] = {"classification": "accuracy", "multi-label": "macro_f1", "regression": "r2"}
"""What the score of each kind of output is, by its name among the metrics."""
TITLES = {"accuracy": "accuracy", "macro_f1": "macro F1", "r2": "R²"}
BINS = 15
"""Of confidence, for the calibration error."""


def shown(value: float, metric: str) -> str:
    """A score as people write it."""
    return f"{value:.4f}" if metric == "r2" else f"{100 * value:.2f} %"


def score(outputs: np.ndarray, labels: np.ndarray, kind: Outputs) -> float:
    """The share of right answers, the macro F1, or R², the mean over the outputs: 1 is perfect.

    outputs: logits or numbers, (N, outputs). labels: all known; see `edgekd.tasks.labels`. A label that is neither
    there nor found has an F1 of 0.
    """
    if kind == "classification":
        return float((outputs.argmax(axis=1) == labels).mean())
    if kind == "multi-label":
        found, there = outputs > 0, labels == 1
        both, either = (found & there).sum(axis=0), found.sum(axis=0) + there.sum(axis=0)
        return float((2 * both / np.maximum(either, 1)).mean())
    numbers, wanted = outputs.astype(np.float64), labels.astype(np.float64)
    left = ((numbers - wanted) ** 2).sum(axis=0)
    spread = ((wanted - wanted.mean(axis=0)) ** 2).sum(axis=0)
    return float(np.where(spread > 0, 1 - left / np.where(spread > 0, spread, 1), left == 0).mean())


def evaluate(
    outputs: np.ndarray, labels: np.ndarray, kind: Outputs, names: Sequence[str], teacher: np.ndarray | None = None
) -> dict[str, Any]:
    """All metrics as JSON; that of the score is among them. teacher: its outputs for the same samples, alike.

    outputs: logits or numbers, finite, (N, outputs). Nothing is left out that there are numbers for; `agreement` and
    `kl` (mean KL(teacher || model) in nats), and for a regression `rmse_to_teacher`, need the teacher.
    """
    import torch

    given = torch.from_numpy(outputs.astype(np.float64))
    shown = None if teacher is None else torch.from_numpy(teacher.astype(np.float64))
    if kind == "classification":
        return _of_classes(given, torch.from_numpy(labels), names, shown)
    if kind == "multi-label":
        return _of_labels(given, torch.from_numpy(labels), names, shown)
    return _of_numbers(given, torch.from_numpy(labels.astype(np.float64)), names, shown)


def _of_classes(
    given: "torch.Tensor", labels: "torch.Tensor", names: Sequence[str], teacher: "torch.Tensor | None"
) -> dict[str, Any]:
    from torchmetrics.functional import classification as metrics
    from torchmetrics.functional import kl_divergence

    count = len(names)
    answers, probabilities = given.argmax(dim=1), given.softmax(dim=1)
    found: dict[str, Any] = {
        "accuracy": float(metrics.multiclass_accuracy(answers, labels, count, average="micro")),
        "macro_f1": float(metrics.multiclass_f1_score(answers, labels, count, average="macro")),
        "calibration_error": float(metrics.multiclass_calibration_error(probabilities, labels, count, BINS)),
    }
    k = min(5, count // 2)
    if k > 1:
        share = metrics.multiclass_accuracy(probabilities, labels, count, average="micro", top_k=k)
        found["top_k"] = {"k": k, "accuracy": float(share)}
    if teacher is not None:
        found["agreement"] = float((answers == teacher.argmax(dim=1)).double().mean())
        found["kl"] = float(kl_divergence(teacher.log_softmax(dim=1), given.log_softmax(dim=1), log_prob=True))
    each = {
        "precision": metrics.multiclass_precision(answers, labels, count, average="none"),
        "recall": metrics.multiclass_recall(answers, labels, count, average="none"),
        "f1": metrics.multiclass_f1_score(answers, labels, count, average="none"),
        "count": labels.bincount(minlength=count),
    }
    return found | {"per_class": _per_name(names, each)}


def _of_labels(
    given: "torch.Tensor", labels: "torch.Tensor", names: Sequence[str], teacher: "torch.Tensor | None"
) -> dict[str, Any]:
    import torch
    from torch.nn.functional import logsigmoid
    from torchmetrics.functional import classification as metrics
    from torchmetrics.functional import kl_divergence

    count = len(names)
    answers, probabilities = (given > 0).long(), given.sigmoid()
    found: dict[str, Any] = {
        "macro_f1": float(metrics.multilabel_f1_score(answers, labels, count, average="macro")),
        "micro_f1": float(metrics.multilabel_f1_score(answers, labels, count, average="micro")),
        "subset_accuracy": float(metrics.multilabel_exact_match(answers, labels, count)),
        "label_accuracy": float((answers == labels).double().mean()),
        "calibration_error": float(metrics.binary_calibration_error(probabilities.ravel(), labels.ravel(), BINS)),
    }
    if teacher is not None:
        shown, ours = (logsigmoid(torch.stack([one, -one], dim=-1).flatten(0, 1)) for one in (teacher, given))
        found["agreement"] = float(((teacher > 0) == (given > 0)).all(dim=1).double().mean())
        found["kl"] = float(kl_divergence(shown, ours, log_prob=True))
    each = {
        "precision": metrics.multilabel_precision(answers, labels, count, average="none"),
        "recall": metrics.multilabel_recall(answers, labels, count, average="none"),
        "f1": metrics.multilabel_f1_score(answers, labels, count, average="none"),
        "count": labels.sum(dim=0),
    }
    return found | {"per_class": _per_name(names, each)}


def _of_numbers(
    given: "torch.Tensor", labels: "torch.Tensor", names: Sequence[str], teacher: "torch.Tensor | None"
) -> dict[str, Any]:
    from torchmetrics.functional import mean_absolute_error, mean_squared_error, r2_score

    found: dict[str, Any] = {
        "r2": float(r2_score(given, labels)),
        "mae": float(mean_absolute_error(given, labels)),
        "rmse": float(mean_squared_error(given, labels, squared=False)),
    }
    if teacher is not None:
        found["rmse_to_teacher"] = float(mean_squared_error(given, teacher, squared=False))
    columns = list(zip(given.T.contiguous(), labels.T.contiguous(), strict=True))
    each: dict[str, Iterable[torch.Tensor]] = {
        "mae": [mean_absolute_error(*column) for column in columns],
        "rmse": [mean_squared_error(*column, squared=False) for column in columns],
        "r2": r2_score(given, labels, multioutput="raw_values").reshape(-1),
    }
    return found | {"per_output": _per_name(names, each)}


def _per_name(names: Sequence[str], each: Mapping[str, "Iterable[torch.Tensor]"]) -> list[dict[str, Any]]:
    """One entry for each class or output: its name, and its number of each kind."""
    rows = zip(*([number.item() for number in numbers] for numbers in each.values()), strict=True)
    return [{"name": name, **dict(zip(each, row, strict=True))} for name, row in zip(names, rows, strict=True)]
