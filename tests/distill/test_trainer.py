import copy
from itertools import chain
from typing import Any

import pytest
import torch
from torch import nn

from edgekd.compress.fold import fold_batch_norm
from edgekd.compress.nncf_backend import insert_quantizers
from edgekd.distill import Distiller, Objective, soft_targets, supervised
from edgekd.distill.balance import weighted
from edgekd.distill.examples import Examples
from edgekd.distill.losses import Loss, Signals
from edgekd.distill.trainer import fit
from edgekd.errors import GateError
from edgekd.models.ds_cnn import ds_cnn
from edgekd.recipe import Training


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


def test_progress_ends_with_the_last_epoch() -> None:
    told: list[tuple[int, int]] = []

    def listen(done: int, total: int, note: str = "") -> None:
        told.append((done, total))

    fit(Distiller(network(), None, supervised()), blobs(), Training(epochs=3, batch_size=32), 0, listen)
    assert told == [(1, 3), (2, 3), (3, 3)]


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
