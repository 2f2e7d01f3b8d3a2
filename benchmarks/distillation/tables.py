"""The tables: who has which labels, which rows there are, and every row's accuracies."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.distillation.kept import kept, key_of
from benchmarks.distillation.materials import Material, material, with_few_labels
from benchmarks.distillation.methods import alone
from benchmarks.distillation.subjects import SPEAKERS, Subject, one_speaker_out
from benchmarks.distillation.training import Taught, everything, labelled_only, student, teacher
from edgekd.distill.config import ObjectiveConfig

TEACHER, ALONE, HONEST = "teacher", "student alone", "label-honest teacher"


@dataclass(frozen=True)
class Demand:
    """What the best method must gain, in points: on every seed, or in the mean and beyond noise."""

    every: float | None = None
    mean: float | None = None

    def __str__(self) -> str:
        if self.every is not None:
            return f"at least {self.every:+.1f} points on every seed"
        return f"{self.mean:+.1f} points in the mean, beyond noise"


@dataclass(frozen=True)
class Table:
    """labels: how many of the training labels the student has, None for all of them; then each seed has others."""

    name: str
    title: str
    seeds: int
    labels: int | None = None
    speakers: tuple[str, ...] = ()
    demand: Demand | None = None


AUDIO = (
    Table("audio-all", "spoken digits, all labels", 3),
    Table("audio-tenth", "spoken digits, 270 labels, the rest unlabelled", 3, labels=270, demand=Demand(every=4.0)),
    Table("audio-speakers", "spoken digits, one speaker left out", 3, speakers=SPEAKERS),
)
TEXT = (
    Table("text-all", "SST-2, all labels", 5, demand=Demand(mean=1.5)),
    Table("text-tenth", "SST-2, 692 labels, the rest unlabelled", 3, labels=692, demand=Demand(every=6.0)),
)


@dataclass(frozen=True)
class Way:
    """A row: what a student minimises, whom it learns from, and whether samples without a label are left out."""

    name: str
    objective: ObjectiveConfig
    teacher: Literal["full", "honest"] | None
    only_labelled: bool = False


def ways(table: Table, subject: Subject) -> list[Way]:
    """The rows of students, that of the student alone first."""
    rows = [Way(ALONE, alone(), None, only_labelled=True)]
    rows += [Way(name, objective, "full") for name, objective in subject.methods.items()]
    if table.labels is not None:
        soft, hard = subject.methods["soft"], subject.methods["hard-distillation"]
        rows += [
            Way("soft, labelled samples only", soft, "full", only_labelled=True),
            Way("soft, label-honest", soft, "honest"),
            Way("hard-distillation, label-honest", hard, "honest"),
        ]
    return rows


@dataclass(frozen=True)
class Run:
    """A student of a row, or a teacher. unit: what is compared in pairs, a seed or a speaker; accuracy: 0 to 1."""

    row: str
    unit: str
    seed: int
    accuracy: float


def runs(table: Table, subject: Subject, seeds: int, cache: Path) -> Iterator[Run]:
    """All teachers and students of a table; those that are in `cache` are not trained again."""
    for speaker in table.speakers or (None,):
        own = subject if speaker is None else one_speaker_out(subject, speaker)
        data = material(own.task, cache)
        full = teacher(own, data, data.labels, 0, cache)
        yield Run(TEACHER, speaker or "all", 0, full.accuracy)
        for seed in range(seeds):
            yield from _of_seed(table, own, data, full, seed, speaker or str(seed), cache)


def _of_seed(
    table: Table, subject: Subject, data: Material, full: Taught, seed: int, unit: str, cache: Path
) -> Iterator[Run]:
    labels = data.labels if table.labels is None else with_few_labels(data.labels, table.labels, seed)
    honest = None
    if table.labels is not None:
        honest = teacher(subject, data, labels, seed + 1, cache)
        yield Run(HONEST, unit, seed, honest.accuracy)
    for way in ways(table, subject):
        taught = {"full": full, "honest": honest, None: None}[way.teacher]
        described = [data.key, labels.tolist(), subject.student, subject.training, way, seed]
        if way.teacher is not None:
            described += [subject.teacher, subject.members, subject.teacher_training]

        def train(way: Way = way, taught: Taught | None = taught) -> dict[str, Any]:
            make = labelled_only if way.only_labelled else everything
            started = time.perf_counter()
            accuracy = student(subject, data, make(data, labels, taught), way.objective, seed, taught)
            seconds = time.perf_counter() - started
            print(f"{table.name}: {way.name}, {unit}, seed {seed}: {accuracy:.4f}, {seconds:.1f} s", file=sys.stderr)
            return {"accuracy": accuracy, "seconds": seconds}

        found = kept(cache / "students" / f"{key_of(described)}.json", train)
        yield Run(way.name, unit, seed, found["accuracy"])


def by_unit(found: list[Run]) -> dict[str, dict[str, float]]:
    """Accuracies in points by row and unit, the mean over the seeds of a unit."""
    rows: dict[str, dict[str, list[float]]] = {}
    for run in found:
        rows.setdefault(run.row, {}).setdefault(run.unit, []).append(100 * run.accuracy)
    return {row: {unit: float(np.mean(values)) for unit, values in units.items()} for row, units in rows.items()}
