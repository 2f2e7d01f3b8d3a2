import copy
import csv
import dataclasses
import math
import re
import signal
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgekd.compress.fold import fold_batch_norm
from edgekd.compress.nncf_backend import insert_quantizers
from edgekd.distill import Distiller, Objective, checkpoints, soft_targets, supervised
from edgekd.distill.balance import DynamicAverage, weighted
from edgekd.distill.batches import draw
from edgekd.distill.examples import Examples
from edgekd.distill.logs import TABLE
from edgekd.distill.losses import Loss, Signals, hard, hard_mse, soft
from edgekd.distill.trainer import fit
from edgekd.errors import GateError, UsageError
from edgekd.models.ds_cnn import ds_cnn
from edgekd.recipe import Training
from tests.distill.job import Job, make_student, run, run_apart


def blobs(count: int = 64, views: int = 2) -> Examples:
    """Three classes far apart, in slightly different views."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    centres = 4.0 * torch.eye(3, 6)
    inputs = centres[labels] + 0.3 * torch.randn(views, count, 6, generator=generator)
    return Examples(inputs, labels)


def network(dropout: float = 0.0) -> nn.Sequential:
    """The same weights at every call; the global generator goes on."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3))


def upsampler() -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(1, 4, 2, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )


def trained(model: nn.Module, seed: int, examples: Examples | None = None, **changes: Any) -> nn.Module:
    training = Training(**{"epochs": 3, "batch_size": 16, "learning_rate": 1e-2, **changes})
    fit(Distiller(model, None, supervised()), examples or blobs(), training, seed)
    return model


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


class BatchLog(nn.Module):
    """Remembers the first number of every sample, batch by batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 2)
        self.batches: list[list[float]] = []

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.batches.append(inputs[:, 0].tolist())
        return self.layer(inputs)


def numbered(count: int) -> Examples:
    return Examples(torch.arange(float(count))[None, :, None], torch.arange(count) % 2)


def test_the_same_seed_gives_the_same_weights_bit_for_bit() -> None:
    assert same_weights(trained(network(), seed=3), trained(network(), seed=3))


def test_the_same_seed_gives_the_same_weights_with_dropout() -> None:
    assert same_weights(trained(network(dropout=0.5), seed=3), trained(network(dropout=0.5), seed=3))


def test_another_seed_gives_other_weights() -> None:
    assert not same_weights(trained(network(), seed=3), trained(network(), seed=4))


def test_a_separable_problem_is_learned() -> None:
    model, examples = network(), blobs()
    training = Training(epochs=25, batch_size=16, learning_rate=2e-2)
    history = fit(Distiller(model, None, supervised()), examples, training, 0)
    assert len(history) == 25
    assert history[-1] < 0.1 * history[0]
    assert torch.equal(model(examples.inputs[0]).argmax(dim=1), examples.labels)


def test_the_student_is_left_in_eval_mode() -> None:
    assert not trained(network(), seed=0).training


def test_every_epoch_draws_every_sample_once_in_a_new_order() -> None:
    model = trained(BatchLog(), 0, numbered(10), epochs=2, batch_size=4)
    epochs = [list(chain(*model.batches[start : start + 3])) for start in (0, 3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 2
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize(("count", "sizes"), [(8, [4, 4]), (9, [4, 4]), (10, [4, 4, 2]), (3, [3]), (1, [1]), (5, [4])])
def test_a_last_batch_is_left_out_only_if_it_is_a_single_sample(count: int, sizes: list[int]) -> None:
    model = trained(BatchLog(), 0, numbered(count), epochs=1, batch_size=4)
    assert [len(batch) for batch in model.batches] == sizes


def test_batch_norm_can_take_every_batch() -> None:
    trained(network(), 0, blobs(count=33), batch_size=16)


def test_inputs_labels_and_cached_outputs_stay_together() -> None:
    views, count = 3, 20
    identity = torch.arange(float(views * count)).reshape(views, count)
    examples = Examples(identity[..., None].repeat(1, 1, 2), torch.arange(count), identity[..., None].repeat(1, 1, 2))
    seen: list[torch.Tensor] = []

    def compute(signals: Signals) -> torch.Tensor:
        seen.append(torch.stack([signals.student_taps[""][:, 0].detach(), signals.teacher[:, 0], signals.labels]))
        return signals.student.square().mean()

    model = nn.Sequential(nn.Identity(), nn.Linear(2, 2))
    loss = Loss(lambda signals: compute(renamed(signals)), needs_teacher=True, student_taps=("0",))

    def renamed(signals: Signals) -> Signals:
        return Signals(signals.student, signals.labels, signals.teacher, {"": signals.student_taps["0"]})

    objective = Objective({"spy": loss}, weighted({"spy": 1.0}))
    fit(Distiller(model, None, objective), examples, Training(epochs=6, batch_size=8), 0)
    inputs, teacher, labels = torch.cat(seen, dim=1)
    assert torch.equal(inputs, teacher)
    assert torch.equal(inputs % count, labels)
    assert len(set((inputs // count).tolist())) == views


def test_training_stops_at_inputs_that_are_not_numbers() -> None:
    examples = blobs()
    examples.inputs[:, 5] = float("nan")
    with pytest.raises(GateError, match="epoch 1"):
        trained(network(), 0, examples)


def test_training_stops_when_it_diverges() -> None:
    with pytest.raises(GateError, match="learning_rate"):
        trained(network(), 0, learning_rate=1e30)


def test_a_last_step_that_leaves_no_numbers_is_a_divergence() -> None:
    with pytest.raises(GateError, match="a weight is nan"):
        fitted_slope(epochs=1, learning_rate=3e38)


def test_progress_counts_steps_and_names_the_parts_of_the_loss() -> None:
    told: list[tuple[int, int]] = []
    notes: list[str] = []

    def listen(done: int, total: int, note: str = "") -> None:
        told.append((done, total))
        notes.append(note)

    validation = Examples(blobs().inputs[:1], blobs().labels)
    training = Training(epochs=3, batch_size=32)
    fit(Distiller(network(), None, supervised()), blobs(), training, 0, listen, validation=validation)
    assert told == [(2, 6), (4, 6), (6, 6)]
    for epoch, note in enumerate(notes, start=1):
        pattern = rf"epoch {epoch} of 3: loss (\d+\.\d{{4}}), hard \1, validation \d+\.\d{{4}}"
        assert re.fullmatch(pattern, note), note


def test_cached_outputs_train_like_the_online_teacher() -> None:
    teacher, examples = network().eval(), blobs()
    with torch.no_grad():
        cached = Examples(examples.inputs, examples.labels, torch.stack([teacher(view) for view in examples.inputs]))
    torch.manual_seed(1)
    online = nn.Linear(6, 3)
    offline = copy.deepcopy(online)
    training = Training(epochs=2, batch_size=16)
    fit(Distiller(online, teacher, soft_targets(4.0, 0.9)), examples, training, 0)
    fit(Distiller(offline, None, soft_targets(4.0, 0.9)), cached, training, 0)
    for one, other in zip(online.parameters(), offline.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def decays(monkeypatch: pytest.MonkeyPatch, model: nn.Module, examples: Examples) -> dict[str, float]:
    """The weight decay that each trained parameter got, by name."""
    optimizers = []

    class Recorded(torch.optim.AdamW):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            optimizers.append(self)

    monkeypatch.setattr(torch.optim, "AdamW", Recorded)
    trained(model, 0, examples, epochs=1, weight_decay=0.25)
    found = {id(one): group["weight_decay"] for group in optimizers[0].param_groups for one in group["params"]}
    return {name: found[id(one)] for name, one in model.named_parameters() if one.requires_grad}


def images(count: int = 16) -> Examples:
    torch.manual_seed(2)
    return Examples(torch.randn(1, count, 1, 8, 8), torch.arange(count) % 3)


def test_only_weights_decay(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ds_cnn((1, 8, 8), 3, width=4, blocks=1)
    layers = dict(model.named_modules())
    for name, decay in decays(monkeypatch, model, images()).items():
        owner, _, leaf = name.rpartition(".")
        is_weight = leaf == "weight" and isinstance(layers[owner], nn.Conv2d | nn.Linear)
        assert decay == (0.25 if is_weight else 0.0), name


@pytest.mark.parametrize(
    "model",
    [
        ds_cnn((1, 8, 8), 3, width=4, blocks=1),
        nn.Sequential(
            nn.ConvTranspose2d(1, 4, 2, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        ),
    ],
    ids=["ds_cnn", "transposed"],
)
def test_learned_quantizer_ranges_do_not_decay(monkeypatch: pytest.MonkeyPatch, model: nn.Module) -> None:
    examples = images()
    quantized = insert_quantizers(fold_batch_norm(model, examples.inputs[0, :1]), examples.inputs[0])
    found = decays(monkeypatch, quantized, examples)
    ranges = {name: decay for name, decay in found.items() if "__nncf_hooks" in name}
    assert len(ranges) > 4
    assert {name for name, decay in ranges.items() if decay} == set()
    assert {decay for name, decay in found.items() if name.endswith(".weight")} == {0.25}


def line(points: list[tuple[float, float]]) -> Examples:
    inputs, numbers = torch.tensor(points).split(1, dim=1)
    return Examples(inputs[None], numbers)


POINTS = [(1.0, 3.0), (-2.0, 1.0), (0.5, 0.5), (2.0, -1.0)]


def fitted_slope(**settings: Any) -> float:
    """What full-batch SGD on the squared error makes of the slope 1."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    changes = {"optimizer": "sgd", "schedule": "constant", "learning_rate": 0.1, "weight_decay": 0.0, **settings}
    objective = Objective({"hard": hard_mse()}, weighted({"hard": 1.0}))
    fit(Distiller(model, None, objective), line(POINTS), Training(batch_size=4, **changes), 0)
    return model.weight.item()


def slope_gradient(slope: float) -> float:
    return sum(2 * (slope * x - y) * x for x, y in POINTS) / len(POINTS)


def test_sgd_by_hand() -> None:
    slope, velocity = 1.0, 0.0
    for _ in range(3):
        velocity = 0.5 * velocity + slope_gradient(slope) + 0.25 * slope
        slope -= 0.1 * velocity
    assert fitted_slope(epochs=3, momentum=0.5, weight_decay=0.25) == pytest.approx(slope)


def test_the_average_of_the_weights_by_hand() -> None:
    slope = average = 1.0
    for _ in range(4):
        slope -= 0.1 * slope_gradient(slope)
        average = 0.75 * average + 0.25 * slope
    assert fitted_slope(epochs=4, momentum=0.0, ema=0.75) == pytest.approx(average)


@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_a_gradient_longer_than_the_limit_is_cut(limit: float) -> None:
    gradient = slope_gradient(1.0)
    expected = 1.0 - 0.1 * math.copysign(min(abs(gradient), limit), gradient)
    assert fitted_slope(epochs=1, momentum=0.0, max_grad_norm=limit) == pytest.approx(expected)
    assert abs(gradient) > 0.5


@pytest.mark.parametrize("count", [64, 61])
def test_accumulated_batches_train_like_a_large_one(count: int) -> None:
    examples = blobs(count)
    examples.labels[:: 3 if count == 64 else 4] = -1
    models = [nn.Linear(6, 3), nn.Linear(6, 3)]
    models[1].load_state_dict(models[0].state_dict())
    trained(models[0], 0, examples, batch_size=8, gradient_accumulation=4)
    trained(models[1], 0, examples, batch_size=32)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_bf16_trains_and_weights_stay_single() -> None:
    model, plain = network(), trained(network(), 0)
    history = fit(
        Distiller(model, None, supervised()),
        blobs(),
        Training(epochs=8, batch_size=16, learning_rate=2e-2, precision="bf16"),
        0,
    )
    assert history[-1] < 0.7 * history[0]
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32, torch.int64}
    assert not same_weights(model, plain)
    assert model(blobs().inputs[0]).dtype == torch.float32
    assert same_weights(trained(network(), 0), plain)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU trains in fp16")
def test_fp16_without_a_gpu_is_refused() -> None:
    with pytest.raises(UsageError, match="needs a GPU"):
        trained(network(), 0, precision="fp16")


def contrary(examples: Examples) -> Examples:
    """The first view with wrong labels: what is learned makes it worse."""
    return Examples(examples.inputs[:1], (examples.labels + 1) % 3)


@pytest.mark.parametrize("average", [None, 0.5])
def test_early_stopping_keeps_the_best_weights(average: float | None) -> None:
    settings: dict[str, Any] = {"batch_size": 16, "schedule": "constant", "learning_rate": 1e-2, "ema": average}
    stopped, best = network(), network()
    training = Training(epochs=20, early_stopping=3, **settings)
    history = fit(Distiller(stopped, None, supervised()), blobs(), training, 0, validation=contrary(blobs()))
    fit(Distiller(best, None, supervised()), blobs(), Training(epochs=1, **settings), 0)
    assert len(history) == 4
    assert same_weights(stopped, best)


def test_early_stopping_waits_as_long_as_it_gets_better() -> None:
    model, examples = network(), blobs()
    validation = Examples(examples.inputs[:1], examples.labels)
    training = Training(epochs=6, batch_size=16, early_stopping=1)
    assert len(fit(Distiller(model, None, supervised()), examples, training, 0, validation=validation)) == 6


def test_early_stopping_without_a_validation_split_is_refused() -> None:
    with pytest.raises(UsageError, match="validation split"):
        trained(network(), 0, early_stopping=2)


def test_the_log_has_every_part_and_the_validation_loss(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, examples = nn.Linear(6, 3), blobs()
    examples = dataclasses.replace(examples, teacher=torch.randn(2, 64, 3))
    validation = dataclasses.replace(examples, inputs=examples.inputs[:1], teacher=torch.randn(1, 64, 3))
    training = Training(epochs=3, batch_size=32, schedule="cosine", learning_rate=0.25)
    distiller = Distiller(model, None, soft_targets(2.0, 0.75))
    history = fit(distiller, examples, training, 0, validation=validation, folder=tmp_path)
    with (tmp_path / TABLE).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "2"), ("2", "4"), ("3", "6")]
    assert [float(row["loss"]) for row in rows] == pytest.approx(history)
    for row in rows:
        assert float(row["loss"]) == pytest.approx(0.25 * float(row["hard"]) + 0.75 * float(row["soft"]), rel=1e-5)
        assert float(row["samples_per_second"]) > 0
    rates = [0.125 * (1 + math.cos(math.pi * step / 6)) for step in (1, 3, 5)]
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx(rates, rel=1e-5)
    with torch.no_grad():
        loss, _ = distiller(validation.inputs[0], validation.labels, validation.teacher[0], 1.0)
    assert float(rows[-1]["validation_loss"]) == pytest.approx(loss.item(), rel=1e-5)


def test_the_last_good_checkpoint_outlives_a_divergence(tmp_path: Path) -> None:
    examples = blobs(views=1)
    last = draw(1, 64, torch.Generator().manual_seed(0)).order[-1]
    examples.inputs[0, last] = float("nan")
    training = Training(epochs=2, batch_size=16, checkpoint_every=1)
    with pytest.raises(GateError, match="diverged in epoch 1"):
        fit(Distiller(network(), None, supervised()), examples, training, 0, folder=tmp_path)
    kept = torch.load(tmp_path / checkpoints.FILE, weights_only=True)
    assert kept["at"]["total"] == 3
    assert all(value.isfinite().all() for value in kept["distiller"].values())


class StoppedError(Exception):
    pass


def stop_at(step: int) -> nn.Module:
    """A network that gives up at a forward pass in training."""
    model = network(dropout=0.5)
    left = [step]

    def count(module: nn.Module, inputs: Any) -> None:
        left[0] -= module.training
        if left[0] == 0:
            raise StoppedError

    model.register_forward_pre_hook(count)
    return model


SETTINGS: list[dict[str, Any]] = [
    {},
    {"optimizer": "sgd", "schedule": "cosine", "warmup": 0.25, "ema": 0.9},
    {"early_stopping": 1, "gradient_accumulation": 2, "max_grad_norm": 0.5, "schedule": "constant"},
]


@pytest.mark.parametrize("changes", SETTINGS)
@pytest.mark.parametrize("step", [2, 4, 5, 7])
def test_a_training_that_is_broken_off_goes_on_to_the_same_weights(
    tmp_path: Path, changes: dict[str, Any], step: int
) -> None:
    examples = dataclasses.replace(blobs(), teacher=torch.randn(2, 64, 3, generator=torch.Generator().manual_seed(3)))
    training = Training(**{"epochs": 3, "batch_size": 16, "checkpoint_every": 1, **changes})

    def distiller(model: nn.Module) -> Distiller:
        losses = {"hard": hard(), "soft": soft(2.0)}
        return Distiller(model, None, Objective(losses, DynamicAverage({"hard": 0.5, "soft": 0.5})))

    def attempt(model: nn.Module, folder: Path | None) -> list[float]:
        validation = Examples(examples.inputs[:1], examples.labels, examples.teacher[:1])
        return fit(distiller(model), examples, training, 0, validation=validation, folder=folder)

    whole, second = network(dropout=0.5), network(dropout=0.5)
    history = attempt(whole, None)
    with pytest.raises(StoppedError):
        attempt(stop_at(step), tmp_path)
    torch.rand(5)
    assert attempt(second, tmp_path) == history
    assert same_weights(second, whole)


def test_a_checkpoint_of_another_training_is_not_taken(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        trained_in(tmp_path, stop_at(6), epochs=3)
    for changes in ({"epochs": 3, "learning_rate": 1e-3}, {"epochs": 4}, {"epochs": 3, "seed": 1}):
        other, expected = network(dropout=0.5), network(dropout=0.5)
        trained_in(tmp_path, other, **changes)
        trained_in(None, expected, **changes)
        assert same_weights(other, expected)


def trained_in(folder: Path | None, model: nn.Module, seed: int = 0, **changes: Any) -> None:
    training = Training(**{"batch_size": 16, "checkpoint_every": 2, **changes})
    fit(Distiller(model, None, supervised()), blobs(), training, seed, folder=folder)


def test_a_damaged_checkpoint_is_not_taken(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        trained_in(tmp_path, stop_at(6), epochs=3)
    file = tmp_path / checkpoints.FILE
    file.write_bytes(file.read_bytes()[:-100])
    again, expected = network(dropout=0.5), network(dropout=0.5)
    trained_in(tmp_path, again, epochs=3)
    trained_in(None, expected, epochs=3)
    assert same_weights(again, expected)


def test_killed_inside_an_epoch_it_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    training = {"epochs": 3, "batch_size": 16, "checkpoint_every": 3, "ema": 0.8}
    job = Job(
        "norm",
        training,
        dropout=0.5,
        validation=True,
        teacher=True,
        folder=str(tmp_path),
        result=str(tmp_path / "w.pt"),
    )
    assert run_apart(dataclasses.replace(job, dies_at=8)) == [-signal.SIGKILL]
    kept = torch.load(tmp_path / checkpoints.FILE, weights_only=True)
    assert (kept["at"]["epoch"], kept["at"]["step"]) == (1, 2)
    assert run_apart(job) == [0]
    resumed = torch.load(tmp_path / "w.pt", weights_only=True)
    unbroken = run(dataclasses.replace(job, folder=None))
    assert all(torch.equal(resumed[name], value) for name, value in unbroken.items())


SGD = {"optimizer": "sgd", "learning_rate": 0.05, "schedule": "cosine"}
JOBS = {
    "batch norm": Job("norm", {"epochs": 3, "batch_size": 16, **SGD}),
    "uneven and unlabelled": Job(
        "norm",
        {"epochs": 2, "batch_size": 10, "max_grad_norm": 0.5, "ema": 0.5, **SGD},
        count=63,
        unlabelled=True,
        validation=True,
        teacher=True,
    ),
    "text": Job("text", {"epochs": 2, "batch_size": 16, "gradient_accumulation": 2, **SGD}, count=61, unlabelled=True),
}


@pytest.mark.parametrize("name", JOBS)
def test_two_processes_train_like_one(tmp_path: Path, name: str) -> None:
    job = dataclasses.replace(JOBS[name], result=str(tmp_path / "weights.pt"), folder=str(tmp_path / "two"))
    assert run_apart(job, processes=2) == [0, 0]
    together = torch.load(job.result, weights_only=True)
    alone = run(dataclasses.replace(job, folder=str(tmp_path / "one")))
    before = make_student(job).state_dict()
    for key, value in alone.items():
        assert torch.allclose(together[key], value, rtol=1e-4, atol=1e-6), key
    assert any(not torch.allclose(alone[key], value, atol=1e-3) for key, value in before.items())
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


def losses(folder: Path) -> list[float]:
    with (folder / TABLE).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [float(row[name]) for row in rows for name in row if name.endswith("loss") and row[name]]
