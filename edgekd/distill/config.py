"""The tables that name an objective in a recipe: losses, their weights and settings, and their balance.

    [[distill.losses]]
    kind = "dkd"
    weight = 0.9
    alpha = 1.0
    beta = 8.0
    temperature = { kind = "linear", start = 8.0, end = 1.0 }

Nothing here loads torch; `edgekd.distill.objectives` makes the objective.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag
from pydantic.dataclasses import dataclass

from edgekd.config import STRICT
from edgekd.errors import UsageError
from edgekd.fields import Between, Count, NotNegative, Positive

Outputs = Literal["classification", "multi-label", "regression"]
"""What a model's outputs are: logits of classes that exclude each other, or that do not; or numbers."""


@dataclass(frozen=True, config=STRICT)
class AnnealedWeight:
    """A weight that goes from `start` to `end` as training goes on."""

    kind: Literal["linear", "cosine"]
    start: NotNegative
    end: NotNegative


@dataclass(frozen=True, config=STRICT)
class AnnealedTemperature:
    """A temperature that goes from `start` to `end` as training goes on."""

    kind: Literal["linear", "cosine"]
    start: Positive
    end: Positive


def _form(value: Any) -> str:
    match value:
        case list() | tuple():
            return "list"
        case dict() | AnnealedWeight() | AnnealedTemperature():
            return "table"
    return "number"


Weight = Annotated[
    Annotated[NotNegative, Tag("number")] | Annotated[AnnealedWeight, Tag("table")], Discriminator(_form)
]
Temperature = Annotated[
    Annotated[Positive, Tag("number")] | Annotated[AnnealedTemperature, Tag("table")], Discriminator(_form)
]
Temperatures = Annotated[
    Annotated[Positive, Tag("number")]
    | Annotated[AnnealedTemperature, Tag("table")]
    | Annotated[tuple[Positive, ...], Tag("list")],
    Discriminator(_form),
]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class _Weighted:
    weight: Weight = 1.0


@dataclass(frozen=True, config=STRICT, kw_only=True)
class _OverLayers(_Weighted):
    student_layer: str
    teacher_layer: str


@dataclass(frozen=True, config=STRICT, kw_only=True)
class _OverLayersOrOutputs(_Weighted):
    student_layer: str | None = None
    teacher_layer: str | None = None
    """Without layers, the outputs."""

    def __post_init__(self) -> None:
        if (self.student_layer is None) != (self.teacher_layer is None):
            raise ValueError("give both 'student_layer' and 'teacher_layer', or neither, which stands for the outputs")


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Hard(_Weighted):
    """The labels: cross entropy, binary cross entropy for multi-label, squared error for regression."""

    kind: Literal["hard"]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class HardL1(_Weighted):
    kind: Literal["hard-l1"]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Soft(_Weighted):
    kind: Literal["soft"]
    temperature: Temperature = 4.0


@dataclass(frozen=True, config=STRICT, kw_only=True)
class SoftCrossEntropy(_Weighted):
    kind: Literal["soft-cross-entropy"]
    temperature: Temperature = 4.0


@dataclass(frozen=True, config=STRICT, kw_only=True)
class HardDistillation(_Weighted):
    kind: Literal["hard-distillation"]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class LogitsMse(_Weighted):
    kind: Literal["logits-mse"]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class ForwardKl(_Weighted):
    kind: Literal["forward-kl"]
    temperature: Temperature = 1.0


@dataclass(frozen=True, config=STRICT, kw_only=True)
class ReverseKl(_Weighted):
    kind: Literal["reverse-kl"]
    temperature: Temperature = 1.0


@dataclass(frozen=True, config=STRICT, kw_only=True)
class JensenShannon(_Weighted):
    kind: Literal["jensen-shannon"]
    mixing: Between = 0.5
    temperature: Temperature = 1.0


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Dkd(_Weighted):
    kind: Literal["dkd"]
    alpha: NotNegative = 1.0
    beta: NotNegative = 8.0
    temperature: Temperature = 4.0


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Dist(_Weighted):
    kind: Literal["dist"]
    beta: NotNegative = 1.0
    gamma: NotNegative = 1.0
    temperature: Temperature = 1.0


@dataclass(frozen=True, config=STRICT, kw_only=True)
class BinarySoft(_Weighted):
    kind: Literal["binary-soft"]
    temperature: Temperatures = 1.0
    """One, or one for each class."""


@dataclass(frozen=True, config=STRICT, kw_only=True)
class OutputMse(_Weighted):
    kind: Literal["output-mse"]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class OutputL1(_Weighted):
    kind: Literal["output-l1"]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class FeatureMse(_OverLayers):
    kind: Literal["feature-mse"]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Hint(_OverLayers):
    kind: Literal["hint"]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class AttentionTransfer(_OverLayers):
    kind: Literal["attention-transfer"]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class RkdDistance(_OverLayersOrOutputs):
    kind: Literal["rkd-distance"]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class RkdAngle(_OverLayersOrOutputs):
    kind: Literal["rkd-angle"]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class SimilarityPreserving(_OverLayersOrOutputs):
    kind: Literal["similarity-preserving"]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Adversarial(_OverLayersOrOutputs):
    kind: Literal["adversarial"]
    hidden: Count = 64
    """Width of the discriminator's hidden layer."""


LossTable = Annotated[
    Hard
    | HardL1
    | Soft
    | SoftCrossEntropy
    | HardDistillation
    | LogitsMse
    | ForwardKl
    | ReverseKl
    | JensenShannon
    | Dkd
    | Dist
    | BinarySoft
    | OutputMse
    | OutputL1
    | FeatureMse
    | Hint
    | AttentionTransfer
    | RkdDistance
    | RkdAngle
    | SimilarityPreserving
    | Adversarial,
    Field(discriminator="kind"),
]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Constant:
    """The weights as they are written."""

    kind: Literal["constant"]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Uncertainty:
    """Weights that are learned, from the written ones on (Kendall et al. 2018)."""

    kind: Literal["uncertainty"]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class DynamicAverage:
    """The weights times a factor for each epoch: what falls slowly counts more (Liu et al. 2019)."""

    kind: Literal["dynamic-average"]
    temperature: Positive = 2.0


@dataclass(frozen=True, config=STRICT, kw_only=True)
class TwoStage:
    """The losses over the teacher first, then those of the labels alone."""

    kind: Literal["two-stage"]
    switch: Between = 0.5
    """Share of the training that the first stage takes."""


BalanceTable = Annotated[Constant | Uncertainty | DynamicAverage | TwoStage, Field(discriminator="kind")]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class ObjectiveConfig:
    """What a student minimises."""

    losses: Annotated[tuple[LossTable, ...], Field(min_length=1)]
    balance: BalanceTable = dataclasses.field(default_factory=lambda: Constant(kind="constant"))

    def __post_init__(self) -> None:
        check_weights(self.losses, self.balance)


def check_weights(losses: Sequence[LossTable], balance: BalanceTable | None) -> None:
    """Raises ValueError for weights that sum to nothing, or that the balance cannot start from."""
    weights = [loss.weight for loss in losses]
    kind = balance.kind if balance else "constant"
    if kind in ("uncertainty", "dynamic-average") and any(isinstance(weight, AnnealedWeight) for weight in weights):
        raise ValueError(f"the balance '{kind}' adapts the weights; give numbers to start from")
    if kind == "uncertainty" and 0.0 in weights:
        raise ValueError("the balance 'uncertainty' learns weights from positive ones on, and one of these is 0")
    if not any(max(w.start, w.end) if isinstance(w, AnnealedWeight) else w for w in weights):
        raise ValueError("the weights of the losses sum to nothing; make one positive")


SHORT_WEIGHT = 0.9


def short_form(temperature: float | None, weight: float | None, outputs: Outputs) -> ObjectiveConfig:
    """The labels and the teacher's softened outputs, as nearly everybody wants it (Hinton et al. 2015): `weight` (by
    default SHORT_WEIGHT) is the share of the teacher; a temperature that is not given is the default of its loss.

    Raises UsageError for the temperature of a regression.
    """
    share = SHORT_WEIGHT if weight is None else weight
    labels = Hard(kind="hard", weight=1.0 - share)
    if outputs == "regression":
        if temperature is not None:
            raise UsageError("distill.temperature: a regression has nothing to soften; leave it out")
        return ObjectiveConfig(losses=(labels, OutputMse(kind="output-mse", weight=share)))
    softened = {} if temperature is None else {"temperature": temperature}
    if outputs == "multi-label":
        return ObjectiveConfig(losses=(labels, BinarySoft(kind="binary-soft", weight=share, **softened)))
    return ObjectiveConfig(losses=(labels, Soft(kind="soft", weight=share, **softened)))


def labels_alone() -> ObjectiveConfig:
    """What a model learns without a teacher."""
    return ObjectiveConfig(losses=(Hard(kind="hard"),))


def for_fine_tuning(config: ObjectiveConfig, outputs: Outputs) -> ObjectiveConfig:
    """What stays on after distillation: the losses over outputs, with what is annealed at its end, weights as written.

    Losses over layers and rivals would have to learn their own parts anew. Where nothing else was asked for, it is the
    short form.
    """
    kept = [_at_end(loss) for loss in config.losses if not over_layers(loss) and loss.kind != "adversarial"]
    if not any(loss.weight for loss in kept):
        return short_form(None, None, outputs)
    return ObjectiveConfig(losses=tuple(kept))


def over_layers(loss: LossTable) -> bool:
    return getattr(loss, "teacher_layer", None) is not None


def _at_end(loss: LossTable) -> LossTable:
    annealed: dict[str, Any] = {
        name: value.end
        for name in ("weight", "temperature")
        if isinstance(value := getattr(loss, name, None), AnnealedWeight | AnnealedTemperature)
    }
    return dataclasses.replace(loss, **annealed)


_SOFTMAX = ("soft", "soft-cross-entropy", "forward-kl", "reverse-kl", "jensen-shannon", "dist")
_NUMBERS = ("hard-l1", "output-mse", "output-l1")

REFUSED: dict[Outputs, dict[str, str]] = {
    "classification": {
        "binary-soft": "its classes exclude each other and share one softmax; use 'soft'",
        **dict.fromkeys(_NUMBERS, "its outputs are logits, not the numbers to hit; use 'hard' or 'logits-mse'"),
    },
    "multi-label": {
        **dict.fromkeys(_SOFTMAX, "its labels hold together and share no softmax; use 'binary-soft'"),
        "hard-distillation": "its labels hold together, so the likeliest one is not the answer; use 'binary-soft'",
        "dkd": "its labels hold together, so there is no one label to split at; use 'binary-soft'",
        **dict.fromkeys(_NUMBERS, "its outputs are logits, not the numbers to hit; use 'hard' or 'logits-mse'"),
    },
    "regression": {
        **dict.fromkeys(
            (*_SOFTMAX, "hard-distillation", "dkd", "binary-soft"),
            "its outputs are numbers and have no classes to soften or to choose from; use 'output-mse' or 'output-l1'",
        ),
        "logits-mse": "its outputs are numbers, not logits; use 'output-mse'",
    },
}
"""The losses that make no sense for an output, and why."""


def check_outputs(config: ObjectiveConfig, outputs: Outputs) -> None:
    """Raises UsageError, with the reason, for a loss that makes no sense for such outputs."""
    for loss in config.losses:
        if reason := REFUSED[outputs].get(loss.kind):
            raise UsageError(f"loss '{loss.kind}' is not for {outputs}: {reason}")
