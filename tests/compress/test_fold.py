import copy

import pytest
import torch
from torch import nn

from edgekd.compress.fold import fold_batch_norm
from edgekd.errors import ExportError
from edgekd.models.ds_cnn import ds_cnn
from edgekd.models.resnet import resnet

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def trained(model: nn.Module) -> nn.Module:
    """In eval mode, with batch norms that have seen something."""
    generator = torch.Generator().manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, NORMS) and layer.running_mean is not None:
            layer.running_mean.normal_(generator=generator)
            layer.running_var.uniform_(0.3, 3.0, generator=generator)
            if layer.affine:
                layer.weight.data.normal_(1.0, 0.5, generator=generator)
                layer.bias.data.normal_(generator=generator)
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(layer, NORMS) for layer in model.modules())


def assert_alike(model: nn.Module, shape: tuple[int, ...], left: int) -> None:
    """Folding keeps the outputs and leaves `left` batch norms."""
    trained(model)
    inputs = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))
    folded = fold_batch_norm(model, torch.zeros(1, *shape))
    with torch.no_grad():
        torch.testing.assert_close(folded(inputs), model(inputs), rtol=1e-4, atol=1e-4)
    assert norms(folded) == left


class OneNormTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.norm(self.second(self.norm(self.first(inputs))))


class OneConvTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.BatchNorm2d(2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.second(self.conv(self.first(self.conv(inputs))))


class ConvOfTwoUsers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        features = self.conv(inputs)
        return self.norm(features) + features


class OutOfOrder(nn.Module):
    """Defined in another order than called."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last = nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)
        self.other, self.first = nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.other(self.last(torch.relu(self.norm(self.first(inputs)))))


class OverTokens(nn.Module):
    """A linear layer over features, a batch norm over tokens."""

    def __init__(self, tokens: int, features: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(features, features), nn.BatchNorm1d(tokens)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(inputs))


class FrozenNorm(nn.Module):
    """A normalisation of the user's own, with fixed statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.5, -1.0, 2.0]))
        self.register_buffer("variance", torch.tensor([0.5, 1.0, 2.0]))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.batch_norm(inputs, self.mean, self.variance)


class TakesSides(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs if inputs.sum() > 0 else -inputs


class Wordless(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        raise ValueError


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU()), (2, 8, 8)),
        (nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3)), (2, 8, 8)),
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4)), (4, 8, 8)),
        (nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, affine=False)), (2, 8, 8)),
        (nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3)), (2, 8)),
        (nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2)), (5,)),
        (OutOfOrder(), (2, 4, 4)),
        (ds_cnn((1, 8, 8), 3, width=4, blocks=2), (1, 8, 8)),
        (resnet((1, 8, 8), 3, width=4, blocks=(1, 2)), (1, 8, 8)),
    ],
    ids=["conv", "no bias", "depthwise", "no affine", "1-d", "linear", "out of order", "ds_cnn", "resnet"],
)
def test_a_batch_norm_behind_a_layer_becomes_part_of_it(model: nn.Module, shape: tuple[int, ...]) -> None:
    assert_alike(model, shape, left=0)


@pytest.mark.parametrize(
    ("model", "shape", "left"),
    [
        (nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 3, 3)), (2, 8, 8), 1),
        (nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.BatchNorm2d(3)), (2, 8, 8), 1),
        (nn.Sequential(nn.ConvTranspose2d(2, 3, 3), nn.BatchNorm2d(3)), (2, 8, 8), 1),
        (ConvOfTwoUsers(), (2, 8, 8), 1),
        (OneNormTwice(), (2, 4, 4), 1),
        (OneConvTwice(), (2, 4, 4), 2),
        (OverTokens(6, 6), (6, 6), 1),
        (OverTokens(5, 6), (5, 6), 1),
        (nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)), (2, 8, 8), 1),
        (nn.Sequential(nn.Conv2d(2, 3, 3), FrozenNorm()), (2, 8, 8), 0),
    ],
    ids=[
        "before the layer",
        "behind the activation",
        "transposed",
        "two users",
        "norm used twice",
        "conv used twice",
        "over tokens",
        "over fewer tokens",
        "no statistics",
        "frozen norm",
    ],
)
def test_a_batch_norm_that_cannot_be_folded_stays(model: nn.Module, shape: tuple[int, ...], left: int) -> None:
    assert_alike(model, shape, left)


def test_the_original_is_untouched() -> None:
    model = trained(ds_cnn((1, 8, 8), 3, width=4, blocks=1)).train()
    before, count = copy.deepcopy(model.state_dict()), norms(model)
    fold_batch_norm(model, torch.zeros(1, 1, 8, 8))
    assert model.training
    assert norms(model) == count
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_names_of_layers_stay() -> None:
    model = trained(ds_cnn((1, 8, 8), 3, width=4, blocks=1))
    folded = fold_batch_norm(model, torch.zeros(1, 1, 8, 8))
    assert [name for name, _ in folded.named_modules()] == [name for name, _ in model.named_modules()]


@pytest.mark.parametrize("model", [TakesSides(), Wordless()], ids=["depends on data", "fails without a word"])
def test_a_model_that_cannot_be_traced_is_refused_in_one_line(model: nn.Module) -> None:
    with pytest.raises(ExportError) as caught:
        fold_batch_norm(model, torch.zeros(1, 4))
    assert type(model).__name__ in str(caught.value)
    assert "\n" not in str(caught.value)
