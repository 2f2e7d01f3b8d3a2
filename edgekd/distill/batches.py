"""What a training sees, and when: the order of the samples, their views, and what each process takes of a batch.

Nothing here looks at the samples themselves: all is drawn as row numbers, alike in all processes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from edgekd.distill.examples import Examples
from edgekd.distill.losses.loss import known
from edgekd.errors import UsageError
from edgekd.recipe import Training


@dataclass(frozen=True)
class Draw:
    """The order of an epoch: sample numbers, int64 (N,), and for each sample its view, int64 (N,)."""

    order: torch.Tensor
    views: torch.Tensor


def draw(views: int, count: int, random: torch.Generator) -> Draw:
    order = torch.randperm(count, generator=random)
    return Draw(order, torch.randint(views, (count,), generator=random))


@dataclass(frozen=True)
class Share:
    """What one process takes in one go of the samples of a step.

    samples: sample numbers, int64 (n,). weight: n times the number of shares over the samples of the step, so that the
    mean of weight times loss over all shares is the loss of the step. labelled: labels to a sample in the whole step,
    or None where this share is all of it.
    """

    samples: torch.Tensor
    weight: float
    labelled: float | None


class Steps:
    """The steps of an epoch, for one of several processes.

    A step sees `batch_size` times `gradient_accumulation` samples, the last one of an epoch what is left. Each process
    gets its part of every batch, with an even share of the labelled samples and of the others. Parts differ by at most
    one sample; their losses are weighted by their sizes. `count` is the number of steps, `samples` that of the samples
    seen in them.

    A step that is left with a single sample, which batch normalisation cannot take, is left out, as is one with fewer
    samples than processes; the only step of an epoch is not.
    """

    def __init__(self, labels: torch.Tensor, training: Training, rank: int, processes: int) -> None:
        if training.batch_size < processes:
            raise UsageError(
                f"batch_size {training.batch_size} is less than one sample for each of {processes} processes"
            )
        if len(labels) < processes:
            raise UsageError(f"{len(labels)} training samples are less than one for each of {processes} processes")
        self._labelled = known(labels).reshape(len(labels), -1).sum(dim=1)
        self._batch, self._rank, self._processes = training.batch_size, rank, processes
        self._size = training.batch_size * training.gradient_accumulation
        left = len(labels) % self._size
        spare = len(labels) > self._size and 0 < left < max(2, processes)
        self.count = math.ceil(len(labels) / self._size) - spare
        self.samples = len(labels) - (left if spare else 0)

    def size(self, step: int) -> int:
        """Samples of a step, of all processes together."""
        return min(self._size, self.samples - step * self._size)

    def shares(self, order: torch.Tensor, step: int) -> list[Share]:
        """What this process does in a step, in turn: one share for each batch of it."""
        samples = order[step * self._size : (step + 1) * self._size]
        smallest = max(2, self._processes)
        batches = max(1, min(math.ceil(len(samples) / self._batch), len(samples) // smallest))
        parts = batches * self._processes
        if parts == 1:
            return [Share(samples, 1.0, None)]
        labelled = self._labelled[samples].sum().item() / len(samples)
        own = [self._split(batch, self._processes)[self._rank] for batch in self._split(samples, batches)]
        return [Share(part, len(part) * parts / len(samples), labelled) for part in own]

    def _split(self, samples: torch.Tensor, parts: int) -> Sequence[torch.Tensor]:
        """Even parts, each with an even share of the labelled samples."""
        if parts == 1:
            return [samples]
        ranked = samples[torch.argsort(self._labelled[samples], descending=True, stable=True)]
        return [ranked[part::parts] for part in range(parts)]


@dataclass(frozen=True)
class Batch:
    """Gathered samples: inputs (n, ...), labels (n, ...), and the teacher's outputs, (n, outputs), where known."""

    inputs: torch.Tensor
    labels: torch.Tensor
    teacher: torch.Tensor | None


def gather(examples: Examples, samples: torch.Tensor, views: torch.Tensor, device: torch.device) -> Batch:
    """Copy these samples, each in its view, out of the training set; nothing else of a mapped file is read."""
    inputs = examples.inputs[views, samples]
    teacher = None if examples.teacher is None else examples.teacher[views, samples]
    return Batch(
        inputs.to(device, non_blocking=True),
        examples.labels[samples].to(device, non_blocking=True),
        None if teacher is None else teacher.to(device, non_blocking=True),
    )
