"""The training loop: one objective, one optimizer, one schedule, from one seed, on whatever accelerate finds."""

import dataclasses
import hashlib
import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from torch import nn

from edgekd.distill import batch_norm, checkpoints, ema
from edgekd.distill.batches import Draw, Steps, draw, gather
from edgekd.distill.distiller import Distiller
from edgekd.distill.examples import Examples
from edgekd.distill.hardware import accelerator_for, placed, prepared
from edgekd.distill.logs import Log, Row
from edgekd.distill.losses.loss import known
from edgekd.distill.optimization import make_optimizer, make_schedule
from edgekd.errors import GateError, UsageError
from edgekd.keys import digest
from edgekd.quiet import quiet
from edgekd.recipe import Training
from edgekd.step import Progress, silent

LOG_EVERY = 50
"""Steps between two rows of the log within an epoch, and between two looks whether the loss is finite."""


def fit(
    distiller: Distiller,
    examples: Examples,
    training: Training,
    seed: int,
    progress: Progress = silent,
    *,
    validation: Examples | None = None,
    folder: Path | None = None,
) -> list[float]:
    """Train the distiller's student, and what its objective learns, in place; returns the mean loss of each epoch.

    The student is left in eval mode and on its device. Each epoch draws every sample once, in a random view; see
    `Steps` for the batches. The same seed on the same machine gives the same weights.

    validation: with it, the loss that is minimised is measured on its first view after each epoch, in eval mode, and
    with the averaged weights where there is an average.
    folder: where the log and a checkpoint go, see `Log` and `checkpoints`. A second call with the same folder and
    arguments goes on from the checkpoint, and ends in the weights of a call that was not broken off.

    Where a launcher started several processes, all of them call this alike, with the same folder. They end with the
    same weights: those of one process with the same batches, but for rounding and for layers that draw numbers. Batch
    normalisation sees the whole batch; a loss over pairs or columns of a batch sees the share of its process.

    Raises GateError if the loss stops being finite; the last checkpoint before that is kept. Raises UsageError for
    early stopping without a validation split, fp16 without a GPU, and less than a sample for each process.
    """
    if training.early_stopping is not None and validation is None:
        raise UsageError("early_stopping looks at the validation loss, and there is no validation split; give one")
    accelerator = accelerator_for(training)
    with placed(distiller, accelerator.device), batch_norm.shared(distiller, accelerator.num_processes):
        torch.manual_seed(seed)
        distiller.prepare(*_first(examples, training.batch_size, accelerator.device))
        with prepared(accelerator, distiller) as model:
            trainer = _Trainer(accelerator, distiller, model, examples, validation, training, seed)
            if folder is not None:
                trainer.go_on_in(folder)
            trainer.run(progress)
    distiller.student.eval()
    return trainer.at.history


@dataclasses.dataclass
class _Position:
    """How far a training is, and what it remembers of its way.

    step: steps done in this epoch; total: in all. samples: those seen in this epoch, by all processes; sums: over them,
    each loss times its samples, the minimised one first, by this process. waited: epochs since the smallest validation
    loss. best: the weights that had it. average: the average of the weights.
    """

    epoch: int = 0
    step: int = 0
    total: int = 0
    samples: int = 0
    sums: torch.Tensor | None = None
    history: list[float] = dataclasses.field(default_factory=list)
    smallest: float = math.inf
    waited: int = 0
    best: ema.Weights | None = None
    average: ema.Weights | None = None


class _Trainer:
    """One call of `fit`: models, optimizer and schedule, and how far they are."""

    def __init__(
        self,
        accelerator: Accelerator,
        distiller: Distiller,
        model: nn.Module,
        examples: Examples,
        validation: Examples | None,
        training: Training,
        seed: int,
    ) -> None:
        self.accelerator, self.distiller, self.model = accelerator, distiller, model
        self.examples, self.validation, self.training, self.seed = examples, validation, training, seed
        self.rank, self.processes = accelerator.process_index, accelerator.num_processes
        self.steps = Steps(examples.labels, training, self.rank, self.processes)
        self.planned = training.epochs * self.steps.count
        optimizer = make_optimizer(distiller, training)
        self.schedule = make_schedule(optimizer, training, self.planned)
        # Only a scaler needs accelerate's own optimizer, which looks for optional packages at each step.
        self.optimizer = optimizer if accelerator.scaler is None else accelerator.prepare_optimizer(optimizer)
        self.parameters = [parameter for parameter in distiller.parameters() if parameter.requires_grad]
        self.random = torch.Generator().manual_seed(seed)
        self.drawn_from = self.random.get_state()
        if self.rank:
            torch.manual_seed(seed + self.rank)
        averaged = None if training.ema is None else ema.copy_of(ema.weights_of(distiller.student))
        self.at = _Position(average=averaged)
        self.names: list[str] = []
        self.rate = training.learning_rate
        self.folder: Path | None = None
        self.identity = ""
        self.log: Log | None = None
        self.since = (0, time.perf_counter())

    def run(self, progress: Progress) -> None:
        at, training = self.at, self.training
        while at.epoch < training.epochs and at.waited < (training.early_stopping or math.inf):
            self.drawn_from = self.random.get_state()
            drawn = draw(self.examples.inputs.shape[0], len(self.examples.labels), self.random)
            self.distiller.train()
            while at.step < self.steps.count:
                self._step(drawn)
                if at.total % LOG_EVERY == 0 and at.step < self.steps.count:
                    self._note(self._means(), None, self._speed(), progress)
                if at.total % training.checkpoint_every == 0 and at.total < self.planned:
                    self._save()
            self._end_epoch(progress)
        self._require_finite_weights()
        kept = at.average if at.best is None else at.best
        if kept is not None:
            self.distiller.student.load_state_dict(kept, strict=False)

    def _step(self, drawn: Draw) -> None:
        at, training = self.at, self.training
        shares = self.steps.shares(drawn.order, at.step)
        self.optimizer.zero_grad()
        for share in shares:
            batch = gather(self.examples, share.samples, drawn.views[share.samples], self.accelerator.device)
            with nullcontext() if share is shares[-1] else self.accelerator.no_sync(self.model):
                with nullcontext() if at.total or self.processes == 1 else quiet():  # torch's advice on a first batch
                    loss, parts = self.model(
                        batch.inputs, batch.labels, batch.teacher, at.total / self.planned, share.labelled
                    )
                self.accelerator.backward(loss * (share.weight / len(shares)))
            self._add(loss, parts, len(share.samples))
        if training.max_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.parameters, training.max_grad_norm)
        self.rate = float(self.schedule.get_last_lr()[0])
        self.optimizer.step()
        if not self.accelerator.optimizer_step_was_skipped:
            self.schedule.step()
            if at.average is not None and training.ema is not None:
                ema.update(at.average, self.distiller.student, training.ema)
        at.step, at.total, at.samples = at.step + 1, at.total + 1, at.samples + self.steps.size(at.step)

    def _add(self, loss: torch.Tensor, parts: dict[str, torch.Tensor], samples: int) -> None:
        self.names = ["loss", *parts]
        values = torch.stack([loss.detach(), *parts.values()])
        if self.at.sums is None:
            self.at.sums = torch.zeros_like(values)
        self.at.sums.add_(values, alpha=samples)

    def _means(self) -> dict[str, float]:
        """The mean of each loss over the samples of this epoch so far; raises GateError if it is not finite.

        This is where the numbers are waited for. Afterwards the main process has the sums of all.
        """
        at = self.at
        assert at.sums is not None
        if self.processes > 1:
            total = self.accelerator.reduce(at.sums.clone(), "sum")
            at.sums = total if self.accelerator.is_main_process else torch.zeros_like(total)
            means = (total / at.samples).tolist()
        else:
            means = (at.sums / at.samples).tolist()
        self._require_finite(means[0], "the loss")
        return dict(zip(self.names, means, strict=True))

    def _require_finite(self, value: float, what: str) -> None:
        if not math.isfinite(value):
            raise GateError(f"training diverged in epoch {self.at.epoch + 1}: {what} is {value}; lower learning_rate")

    def _require_finite_weights(self) -> None:
        """The loss is that of the weights before a step."""
        for parameter in self.parameters:
            if not parameter.isfinite().all():
                self._require_finite(math.nan, "a weight")

    def _end_epoch(self, progress: Progress) -> None:
        at = self.at
        means, speed = self._means(), self._speed()
        loss = None if self.validation is None else self._validate(self.validation)
        self._note(means, loss, speed, progress)
        several = self.processes > 1
        self.distiller.end_epoch(lambda each: self.accelerator.reduce(each, "sum") if several else each.clone())
        at.history.append(means["loss"])
        at.epoch, at.step, at.samples, at.sums = at.epoch + 1, 0, 0, None
        self._speed()

    def _validate(self, validation: Examples) -> float:
        """The loss on the validation split; remembers how it went, and the best weights where they are wanted."""
        at, count = self.at, len(validation.labels)
        total = torch.zeros((), device=self.accelerator.device)
        labelled = known(validation.labels).sum().item() / count
        self.distiller.eval()
        with ema.averaged(self.distiller.student, at.average), torch.no_grad():
            rows = torch.arange(self.rank, count, self.processes)
            for samples in torch.split(rows, self.training.batch_size // self.processes) if len(rows) else ():
                batch = gather(validation, samples, torch.zeros_like(samples), self.accelerator.device)
                done = at.total / self.planned
                loss, _ = self.distiller(batch.inputs, batch.labels, batch.teacher, done, labelled)
                total += len(samples) * loss
            mean: float = self.accelerator.reduce(total, "sum").item() / count
            self._require_finite(mean, "the validation loss")
            at.waited += 1
            if mean < at.smallest:
                at.smallest, at.waited = mean, 0
                if self.training.early_stopping is not None:
                    at.best = ema.copy_of(ema.weights_of(self.distiller.student))
        return mean

    def _speed(self) -> float:
        """Samples per second since the last call."""
        before, started = self.since
        self.since = self.at.epoch * self.steps.samples + self.at.samples, time.perf_counter()
        return (self.since[0] - before) / (self.since[1] - started)

    def _note(self, means: dict[str, float], validation: float | None, speed: float, progress: Progress) -> None:
        at = self.at
        shown = means if validation is None else {**means, "validation": validation}
        words = ", ".join(f"{name} {value:.4f}" for name, value in shown.items())
        progress(at.total, self.planned, f"epoch {at.epoch + 1} of {self.training.epochs}: {words}")
        if self.log is not None:
            numbers = {
                **means,
                "learning_rate": self.rate,
                "validation_loss": validation,
                "samples_per_second": speed,
            }
            self.log.write(Row(at.epoch + 1, at.total, numbers))

    def go_on_in(self, folder: Path) -> None:
        """Write log and checkpoints into a folder; go on from the checkpoint there, if it is of this training."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.identity = _identity(self.distiller, self.examples, self.validation, self.training, self.seed)
        if (saved := checkpoints.load(folder, self.identity)) is not None:
            self._restore(saved)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self.log = Log(folder, self.at.total)
        self._speed()

    def _save(self) -> None:
        if self.folder is None:
            return
        self._means()
        self._require_finite_weights()
        states = gather_object([checkpoints.random_state()])
        if not self.accelerator.is_main_process:
            return
        content = {
            "at": dict(vars(self.at)),
            "names": self.names,
            "distiller": self.distiller.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
            "drawn_from": self.drawn_from,
            "random": states,
        }
        checkpoints.save(self.folder, self.identity, content)

    def _restore(self, saved: checkpoints.Content) -> None:
        """Take over a checkpoint. One of another number of processes is taken, too: its generators then differ."""
        self.at = _Position(**send_to_device(saved["at"], self.accelerator.device))
        if self.at.sums is not None and not self.accelerator.is_main_process:
            self.at.sums.zero_()
        self.names = saved["names"]
        self.distiller.load_state_dict(saved["distiller"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        self.random.set_state(saved["drawn_from"])
        if self.rank < len(saved["random"]):
            checkpoints.restore_random(saved["random"][self.rank])


def _first(examples: Examples, count: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A first batch: inputs, and the teacher's outputs if they are known."""
    teacher = None if examples.teacher is None else examples.teacher[0, :count].to(device)
    return examples.inputs[0, :count].to(device), teacher


def _identity(
    distiller: Distiller, examples: Examples, validation: Examples | None, training: Training, seed: int
) -> str:
    """What a checkpoint must agree with, as a digest. Arguments of losses and the inputs themselves are not in it."""
    document: dict[str, Any] = {
        "training": dataclasses.asdict(training),
        "seed": seed,
        "losses": list(distiller.objective.losses),
        "state": {name: list(value.shape) for name, value in ema.weights_of(distiller).items()},
        "splits": [
            None if split is None else [list(split.inputs.shape), split.teacher is not None, _labels_digest(split)]
            for split in (examples, validation)
        ],
    }
    return digest(document)


def _labels_digest(split: Examples) -> str:
    return hashlib.sha256(split.labels.contiguous().numpy().tobytes()).hexdigest()
