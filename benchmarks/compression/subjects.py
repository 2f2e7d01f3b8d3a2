"""What is compressed: students of the distillation benchmark's tasks, and how they recover.

Settings were looked for on a fifth of the training split that was held out.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from benchmarks.distillation.subjects import Network, Subject, sentiment, spoken_digits
from edgekd.recipe import TextTask, Training, load_recipe


@dataclass(frozen=True)
class Cutting:
    """recovery: after each of so many rounds of pruning, and after factorization. rank: the share that low-rank keeps.

    tolerance: points below the float student that half the multiply-accumulates, then int8, may come to.
    """

    recovery: Training
    rounds: int
    rank: float
    tolerance: float


@dataclass(frozen=True)
class Compressed:
    """learning: data, teacher, and how the float student learns from it, by its method `soft`.

    qat: how the student is trained with quantizers in place. cutting: None for a student that is quantized only.
    """

    title: str
    learning: Subject
    qat: Training
    cutting: Cutting | None = None


def audio(recordings: Path, quick: bool) -> Compressed:
    """The DS-CNN of the distillation benchmark."""
    return Compressed(
        title="spoken digits, DS-CNN",
        learning=spoken_digits(recordings, quick),
        qat=Training(epochs=1 if quick else 4, learning_rate=1e-3),
        cutting=Cutting(Training(epochs=1 if quick else 8, learning_rate=5e-3), rounds=2, rank=0.4, tolerance=0.5),
    )


def text(sentences: Path, quick: bool) -> Compressed:
    """The encoder and the views of the recipe `sentiment`; it learns from the distillation benchmark's TextCNNs."""
    recipe, subject = load_recipe("sentiment").recipe, sentiment(sentences, quick)
    assert isinstance(recipe.task, TextTask)
    training = recipe.distill.train
    return Compressed(
        title="SST-2, text encoder",
        learning=dataclasses.replace(
            subject,
            task=dataclasses.replace(subject.task, augment=recipe.task.augment),
            student=Network(recipe.student.model, dict(recipe.student.args)),
            training=dataclasses.replace(training, epochs=1) if quick else training,
        ),
        qat=Training(epochs=1 if quick else 2, learning_rate=1e-4),
        cutting=Cutting(Training(epochs=1 if quick else 2, learning_rate=2e-4), rounds=1, rank=0.4, tolerance=1.0),
    )


def hard(recordings: Path, quick: bool) -> Compressed:
    """A MobileNetV3-Small of a quarter of its width: Hardswish, gates, and few channels to share an error."""
    return Compressed(
        title="spoken digits, MobileNetV3",
        learning=dataclasses.replace(
            spoken_digits(recordings, quick),
            student=Network("mobilenet_v3", {"width": 0.25, "stem_stride": 4, "dropout": 0.0}),
            training=Training(epochs=1 if quick else 10, learning_rate=1e-2),
        ),
        qat=Training(epochs=1 if quick else 4, learning_rate=1e-3),
    )
