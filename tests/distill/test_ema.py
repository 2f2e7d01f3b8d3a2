import torch
from torch import nn

from edgekd.distill.ema import averaged, copy_of, update, weights_of


def test_average_by_hand() -> None:
    model = nn.BatchNorm1d(2)
    average = copy_of(weights_of(model))
    for value, tracked in ((2.0, 5), (4.0, 6)):
        model.load_state_dict({name: torch.full_like(each, value) for name, each in model.state_dict().items()})
        model.num_batches_tracked.fill_(tracked)
        update(average, model, decay=0.75)
    assert average["weight"].tolist() == [0.75 * (0.75 * 1 + 0.25 * 2) + 0.25 * 4] * 2
    assert average["running_mean"].tolist() == [0.75 * (0.75 * 0 + 0.25 * 2) + 0.25 * 4] * 2
    assert average["num_batches_tracked"] == 6


def test_a_model_has_the_average_only_for_a_while() -> None:
    model = nn.Linear(1, 1)
    own, parameter = copy_of(weights_of(model)), model.weight
    average = {name: torch.full_like(value, 9.0) for name, value in own.items()}
    with averaged(model, average):
        assert model.weight.item() == model.bias.item() == 9.0
    assert model.weight is parameter
    assert {name: value.item() for name, value in model.state_dict().items()} == {n: v.item() for n, v in own.items()}


def test_without_an_average_the_model_stays_as_it_is() -> None:
    model = nn.Linear(1, 1)
    before = model.weight.item()
    with averaged(model, None):
        assert model.weight.item() == before
