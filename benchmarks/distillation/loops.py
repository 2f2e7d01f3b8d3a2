"""The same training work done by different loops, for timing.

python -m benchmarks.distillation.loops RECORDINGS CACHE EPOCHS LOOP...

Runs every loop once to warm up, then all in turn and back again; prints the seconds of both turns as JSON, by loop.
All take batches of 64 in a random order from the same tensors, AdamW and a one-cycle learning rate; those with a
teacher minimise 0.1 of the cross entropy with the labels and 0.9 of the soft loss at T = 4. The teacher is hardly
trained, and answers as fast.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.distillation.materials import material
from benchmarks.distillation.subjects import Subject, spoken_digits
from benchmarks.distillation.training import teacher
from edgekd.distill.distiller import Distiller, soft_targets, supervised
from edgekd.distill.examples import Examples
from edgekd.distill.trainer import fit
from edgekd.models.build import build
from edgekd.recipe import Training
from edgekd.seeding import deterministic

TEMPERATURE, WEIGHT, BATCH, RATE, DECAY = 4.0, 0.9, 64, 1e-2, 1e-2


@dataclass(frozen=True)
class Job:
    """One training: an untrained student, a trained teacher, and what both see for so many epochs."""

    student: nn.Module
    teacher: nn.Module
    inputs: torch.Tensor
    labels: torch.Tensor
    outputs: torch.Tensor
    epochs: int

    @property
    def steps(self) -> int:
        return self.epochs * -(-len(self.labels) // BATCH)

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Inputs, labels and the teacher's stored outputs, each sample once an epoch in a random view."""
        for _ in range(self.epochs):
            order = torch.randperm(len(self.labels))
            views = torch.randint(len(self.inputs), (len(self.labels),))
            for chosen in order.split(BATCH):
                view = views[chosen]
                yield self.inputs[view, chosen], self.labels[chosen], self.outputs[view, chosen]


def edgekd_alone(job: Job) -> None:
    fit(Distiller(job.student, None, supervised()), Examples(job.inputs, job.labels), _training(job), 0)


def edgekd_cached(job: Job) -> None:
    examples = Examples(job.inputs, job.labels, job.outputs)
    fit(Distiller(job.student, None, soft_targets(TEMPERATURE, WEIGHT)), examples, _training(job), 0)


def edgekd_online(job: Job) -> None:
    distiller = Distiller(job.student, job.teacher, soft_targets(TEMPERATURE, WEIGHT))
    fit(distiller, Examples(job.inputs, job.labels), _training(job), 0)


def _training(job: Job) -> Training:
    return Training(epochs=job.epochs, batch_size=BATCH, learning_rate=RATE, weight_decay=DECAY)


def hand_alone(job: Job) -> None:
    optimizer, schedule = _optimizer(job)
    job.student.train()
    for inputs, labels, _ in job.batches():
        _step(F.cross_entropy(job.student(inputs), labels), optimizer, schedule)


def hand_cached(job: Job) -> None:
    optimizer, schedule = _optimizer(job)
    job.student.train()
    for inputs, labels, outputs in job.batches():
        _step(_distilled(job.student(inputs), labels, outputs), optimizer, schedule)


def hand_online(job: Job) -> None:
    optimizer, schedule = _optimizer(job)
    job.student.train()
    job.teacher.eval()
    for inputs, labels, _ in job.batches():
        with torch.no_grad():
            outputs = job.teacher(inputs)
        _step(_distilled(job.student(inputs), labels, outputs), optimizer, schedule)


def _distilled(student: torch.Tensor, labels: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    soft = F.kl_div(
        F.log_softmax(student / TEMPERATURE, dim=1), F.softmax(outputs / TEMPERATURE, dim=1), reduction="batchmean"
    )
    return (1 - WEIGHT) * F.cross_entropy(student, labels) + WEIGHT * TEMPERATURE**2 * soft


def _optimizer(job: Job) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer = torch.optim.AdamW(job.student.parameters(), lr=RATE, weight_decay=DECAY)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=job.steps)


def _step(loss: torch.Tensor, optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()


def torchdistill_online(job: Job) -> None:
    from benchmarks.distillation import torchdistill_box

    torchdistill_box.distil(job)


LOOPS: dict[str, Callable[[Job], None]] = {
    "edgekd, no teacher": edgekd_alone,
    "edgekd, cached outputs": edgekd_cached,
    "edgekd, online teacher": edgekd_online,
    "hand-written, no teacher": hand_alone,
    "hand-written, cached outputs": hand_cached,
    "hand-written, online teacher": hand_online,
    "torchdistill, online teacher": torchdistill_online,
}


def prepared(subject: Subject, cache: Path) -> Callable[[int], Job]:
    """Makes jobs of so many epochs, alike but for their fresh student."""
    data = material(subject.task, cache)
    taught = teacher(subject, data, data.labels, 0, cache)

    def job(epochs: int) -> Job:
        deterministic(0)
        made = build(data.architecture(subject.student.model, subject.student.args), "student")
        return Job(made, taught.module, data.inputs, torch.from_numpy(data.labels), taught.outputs, epochs)

    return job


def main() -> None:
    recordings, cache, epochs, *names = sys.argv[1:]
    job = prepared(spoken_digits(Path(recordings), quick=True), Path(cache))
    for name in names:
        LOOPS[name](job(1))
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in [*names, *reversed(names)]:
        made = job(int(epochs))
        started = time.perf_counter()
        LOOPS[name](made)
        seconds[name].append(time.perf_counter() - started)
    print(json.dumps({"samples": int(epochs) * len(made.labels), "seconds": seconds}))


if __name__ == "__main__":
    main()
