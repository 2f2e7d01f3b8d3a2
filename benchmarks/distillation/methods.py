"""Every objective of the package on an equal footing: the method's own loss with the hard loss beside it.

The weights are those of the papers where these fit the loss's size here, else round numbers. They are the same for all
tables of a subject, with few labels or with all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekd.config import validate
from edgekd.distill.config import ObjectiveConfig


@dataclass(frozen=True)
class Layers:
    """Module paths (student's, teacher's). features: what the classifier sees; maps: the last convolution's answers."""

    features: tuple[str, str]
    maps: tuple[str, str]


def methods(layers: Layers, temperature: float) -> dict[str, ObjectiveConfig]:
    """The methods by name; `temperature` is that of the softened losses that have the factor T²."""
    features = dict(zip(("student_layer", "teacher_layer"), layers.features, strict=True))
    maps = dict(zip(("student_layer", "teacher_layer"), layers.maps, strict=True))
    softened = {"temperature": temperature}
    beside: Mapping[str, tuple[float, list[dict[str, Any]]]] = {
        "soft": (0.1, [{"kind": "soft", "weight": 0.9, **softened}]),
        "soft-cross-entropy": (0.1, [{"kind": "soft-cross-entropy", "weight": 0.9, "temperature": 2.0}]),
        "hard-distillation": (0.5, [{"kind": "hard-distillation", "weight": 0.5}]),
        "logits-mse": (0.1, [{"kind": "logits-mse", "weight": 0.9}]),
        "forward-kl": (0.1, [{"kind": "forward-kl", "weight": 0.9}]),
        "reverse-kl": (0.1, [{"kind": "reverse-kl", "weight": 0.9}]),
        "jensen-shannon": (0.1, [{"kind": "jensen-shannon", "weight": 0.9}]),
        "dkd": (0.1, [{"kind": "dkd", "weight": 0.9, "alpha": 1.0, "beta": 8.0, **softened}]),
        "dist": (0.1, [{"kind": "dist", "weight": 0.9, "beta": 1.0, "gamma": 1.0, **softened}]),
        "hint": (1.0, [{"kind": "hint", "weight": 0.5, **features}]),
        "attention-transfer": (1.0, [{"kind": "attention-transfer", "weight": 1.0, **maps}]),
        "rkd": (
            1.0,
            [{"kind": "rkd-distance", "weight": 1.0, **features}, {"kind": "rkd-angle", "weight": 2.0, **features}],
        ),
        "similarity-preserving": (1.0, [{"kind": "similarity-preserving", "weight": 100.0, **features}]),
        "adversarial": (1.0, [{"kind": "adversarial", "weight": 0.05}]),
    }
    return {name: _objective(name, hard, losses) for name, (hard, losses) in beside.items()}


def alone() -> ObjectiveConfig:
    """The labels and nothing else."""
    return _objective("alone", 1.0, [])


def _objective(name: str, hard: float, losses: list[dict[str, Any]]) -> ObjectiveConfig:
    tables = {"losses": [{"kind": "hard", "weight": hard}, *losses]}
    return validate(ObjectiveConfig, tables, f"method '{name}'")
