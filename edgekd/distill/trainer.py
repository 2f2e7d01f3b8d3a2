"""The training loop: one objective, one optimizer, one schedule, from one seed."""

import math

import torch
from torch import nn

from edgekd.distill.distiller import Distiller
from edgekd.distill.examples import Examples
from edgekd.errors import GateError
from edgekd.recipe import Training
from edgekd.step import Progress, silent


def fit(
    distiller: Distiller,
    examples: Examples,
    training: Training,
    seed: int,
    progress: Progress = silent,
) -> list[float]:
    """Train the distiller's student, and what its objective learns, in place; returns the mean loss of each epoch.

    The student is left in eval mode. Each epoch draws every sample once, in a random view. The last, smaller batch is
    used too, unless it is a single sample, which batch normalisation cannot take. The same seed on the same machine
    gives the same weights.

    Raises GateError if the loss stops being finite.
    """
    torch.manual_seed(seed)
    student, count = distiller.student, len(examples.labels)
    random = torch.Generator().manual_seed(seed)
    distiller.prepare(*_first(examples, training.batch_size))
    optimizer = torch.optim.AdamW(_groups(distiller, training.weight_decay), lr=training.learning_rate)
    batches = math.ceil(count / training.batch_size) - (count % training.batch_size == 1 and count > 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.learning_rate, total_steps=max(training.epochs * batches, 2)
    )
    history = []
    student.train()
    for epoch in range(training.epochs):
        order = torch.randperm(count, generator=random)
        views = torch.randint(examples.inputs.shape[0], (count,), generator=random)
        total = 0.0
        for batch in range(batches):
            chosen = order[batch * training.batch_size : (batch + 1) * training.batch_size]
            view = views[chosen]
            teacher = None if examples.teacher is None else examples.teacher[view, chosen]
            progress_made = (epoch * batches + batch) / (training.epochs * batches)
            loss, _ = distiller(examples.inputs[view, chosen], examples.labels[chosen], teacher, progress_made)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.item()
            if not math.isfinite(total):
                raise GateError(
                    f"training diverged in epoch {epoch + 1}: the loss is {loss.item()}; lower learning_rate"
                )
        distiller.end_epoch()
        history.append(total / batches)
        progress(epoch + 1, training.epochs, f"loss {history[-1]:.4f}")
    student.eval()
    return history


def _first(examples: Examples, count: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A first batch: inputs, and the teacher's outputs if they are known."""
    return examples.inputs[0, :count], None if examples.teacher is None else examples.teacher[0, :count]


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay for weights only: not for biases, normalisation, or learned quantizer ranges."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = {id(p) for name, p in model.named_parameters() if p.ndim > 1 and name.endswith("weight")}
    return [
        {"params": [p for p in trained if id(p) in weights], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) not in weights], "weight_decay": 0.0},
    ]
