import copy
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgekd.compress import nncf_backend, quantize
from edgekd.compress.fold import fold_batch_norm
from edgekd.compress.gains import GAINS
from edgekd.compress.program import StoredWeight
from edgekd.compress.sparsify import holding_zeros, sparsify, sparsity_of
from edgekd.distill import Distiller, supervised
from edgekd.distill.examples import Examples
from edgekd.distill.trainer import fit
from edgekd.errors import UsageError
from edgekd.models.build import Architecture
from edgekd.recipe import Training
from edgekd.runtimes import SUFFIXES, THIRTY_TWO_BIT, runtime_on
from tests.compress.students import lively, noise

DS_CNN = Architecture("ds_cnn", {"width": 8, "blocks": 2}, (2, 8, 8), 4)
DENSE = {"stem.0", "blocks.0.0.0", "blocks.1.0.0"}
"""The layer on the input, and the depthwise ones."""
SPARSE = {"blocks.0.1.0", "blocks.1.1.0", "classifier"}
TRAININGS: list[dict[str, Any]] = [
    {"optimizer": "adamw", "weight_decay": 0.1, "max_grad_norm": 1.0},
    {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.1},
    {"optimizer": "adamw", "weight_decay": 0.1, "ema": 0.9},
]


def train(model: nn.Module, **changes: Any) -> None:
    examples = Examples(noise(DS_CNN.input_shape, 64)[None], torch.arange(64) % 4)
    training = Training(**{"epochs": 3, "batch_size": 16, "learning_rate": 1e-2, **changes})
    fit(Distiller(model, None, supervised()), examples, training, 0)


def zeros_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: model.get_submodule(name).weight.detach() == 0 for name in sorted(SPARSE)}


def same_zeros(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.77, 0.95])
def test_each_layer_has_exactly_the_share_of_zeros(share: float) -> None:
    model = lively(DS_CNN)
    sparse = sparsify(model, pattern="unstructured", share=share)
    for name, zeros in zeros_of(sparse).items():
        assert int(zeros.sum()) == round(share * zeros.numel())
        before = model.get_submodule(name).weight.abs()
        assert before[zeros].max() < before[~zeros].min()
        assert torch.equal(sparse.get_submodule(name).weight[~zeros], model.get_submodule(name).weight[~zeros])


@pytest.mark.parametrize(
    "layer",
    [nn.Linear(12, 5), nn.Conv2d(8, 6, 3), nn.Conv2d(8, 6, (1, 3)), nn.Conv1d(4, 3, 5), nn.Conv2d(16, 6, 3, groups=2)],
    ids=["linear", "3x3", "1x3", "1-d", "two groups"],
)
def test_of_every_four_inputs_the_two_largest_are_kept(layer: Any) -> None:
    sparse = sparsify(nn.Sequential(layer), pattern="2:4")[0].weight.detach()
    weight, inputs = layer.weight.detach(), layer.weight.shape[1]
    assert inputs % 4 == 0
    for first in range(0, inputs, 4):
        before, after = weight[:, first : first + 4], sparse[:, first : first + 4]
        order = before.abs().argsort(dim=1, descending=True)
        assert torch.equal(after.gather(1, order[:, :2]), before.gather(1, order[:, :2]))
        assert not after.gather(1, order[:, 2:]).any()


def test_of_equal_weights_the_share_goes_all_the_same() -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    nn.init.ones_(model[0].weight)
    assert int((sparsify(model, pattern="unstructured", share=0.25)[0].weight == 0).sum()) == 16
    assert sparsify(model, pattern="2:4")[0].weight.reshape(-1, 4).sum(dim=1).tolist() == [2.0] * 16


@pytest.mark.parametrize("options", [{"pattern": "unstructured", "share": 0.5}, {"pattern": "2:4"}])
def test_depthwise_layers_and_the_one_on_the_input_stay(options: dict[str, Any]) -> None:
    model = lively(DS_CNN)
    sparse = sparsify(model, **options)
    changed = {
        name for name, one in sparse.named_parameters() if not torch.equal(one, model.state_dict(keep_vars=True)[name])
    }
    assert changed == {f"{name}.weight" for name in SPARSE}


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.inner, self.output = nn.Embedding(20, 6), nn.Linear(6, 6), nn.Linear(6, 20)
        self.output.weight = self.tokens.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.output(self.inner(self.tokens(ids)))


def test_embeddings_and_weights_shared_with_them_stay() -> None:
    facts = sparsity_of(sparsify(Text(), pattern="unstructured", share=0.5))
    assert facts.layers == {"inner": 0.5}
    assert facts.zeros == 18 / (20 * 6 + 6 * 6 + 6 + 20)


def test_the_passed_model_is_untouched() -> None:
    model = lively(DS_CNN).train()
    before = copy.deepcopy(model.state_dict())
    sparse = sparsify(model, pattern="2:4")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert sparse.training


@pytest.mark.parametrize("training", TRAININGS, ids=["adamw", "sgd", "averaged"])
def test_training_keeps_exactly_the_zeros(training: dict[str, Any]) -> None:
    sparse = sparsify(lively(DS_CNN), pattern="unstructured", share=0.6)
    start = copy.deepcopy(sparse)
    with holding_zeros(sparse):
        train(sparse, **training)
    zeros = zeros_of(sparse)
    assert same_zeros(zeros, zeros_of(start))
    for name, where in zeros.items():
        before, after = start.get_submodule(name).weight, sparse.get_submodule(name).weight
        assert (before[~where] != after[~where]).all()


@pytest.mark.parametrize("training", TRAININGS[:2], ids=["adamw", "sgd"])
def test_without_the_context_the_zeros_are_lost(training: dict[str, Any]) -> None:
    sparse = sparsify(lively(DS_CNN), pattern="unstructured", share=0.6)
    with holding_zeros(sparse):
        pass
    train(sparse, **training)
    assert max(sparsity_of(sparse).layers.values()) < 0.2


def test_an_error_ends_the_context_as_well() -> None:
    sparse = sparsify(nn.Sequential(nn.Linear(4, 4)), pattern="2:4")
    with pytest.raises(ZeroDivisionError), holding_zeros(sparse):
        raise ZeroDivisionError
    sparse(torch.ones(1, 4)).sum().backward()
    assert (sparse[0].weight.grad == 1).all()


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
@pytest.mark.parametrize("training", TRAININGS[:2], ids=["adamw", "sgd"])
def test_zeros_of_the_float_model_are_zeros_of_the_int8_weights(pattern: Any, training: dict[str, Any]) -> None:
    sparse = sparsify(lively(DS_CNN), pattern=pattern, share=0.6 if pattern == "unstructured" else None)

    def recover(quantized: nn.Module) -> None:
        with holding_zeros(quantized):
            train(quantized, **training)

    program = quantize(sparse, noise(DS_CNN.input_shape, 32), recover)
    scales = {entry.tensor for entry in program.table if entry.kind == "weight"}
    stored = program.frozen(stored=True)
    for name, zeros in zeros_of(sparse).items():
        assert f"{name}.weight" in scales
        (form,) = (one for one in stored.get_submodule(name).modules() if isinstance(one, StoredWeight))
        assert form.stored.dtype == torch.int8
        assert not form.stored[zeros].any()
        assert form.stored[~zeros].any()
    trained, started = program.model.get_submodule("classifier").weight, sparse.classifier.weight
    assert not torch.equal(trained, started)


def test_facts_are_those_of_all_parameters() -> None:
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16, bias=False))
    sparse = sparsify(model, pattern="unstructured", share=0.75)
    facts, dense = sparsity_of(sparse), sparsity_of(model)
    numbers = [one.detach().numpy() for one in sparse.parameters()]
    assert facts.zeros == (0.75 * (64 * 32 + 32 * 16)) / (64 * 32 + 32 + 32 * 16)
    assert facts.layers == {"0": 0.75, "2": 0.75}
    assert facts.bytes == dense.bytes == 4 * (64 * 32 + 32 + 32 * 16)
    assert facts.compressed == len(zlib.compress(b"".join(one.tobytes() for one in numbers), 9))
    assert facts.compressed < 0.5 * dense.compressed
    assert dense.zeros == 0


def test_a_model_without_weights_has_no_zeros() -> None:
    facts = sparsity_of(nn.ReLU())
    assert (facts.zeros, facts.layers, facts.bytes) == (0.0, {}, 0)


def test_every_runtime_says_in_one_line_what_zeros_gain() -> None:
    used = {runtime_on(Path(f"model{suffix}"), place) for suffix in SUFFIXES for place in ("x86_64", THIRTY_TWO_BIT)}
    assert set(GAINS) == used
    assert all(words.endswith(")") and "\n" not in words for words in GAINS.values())


def refusal(model: nn.Module, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        sparsify(model, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "unstructured"}, "share must be above 0 and below 1, not None"),
        ({"pattern": "unstructured", "share": 0.0}, "not 0.0"),
        ({"pattern": "unstructured", "share": 1.0}, "not 1.0"),
        ({"pattern": "unstructured", "share": float("nan")}, "not nan"),
        ({"pattern": "2:4", "share": 0.5}, "leave share out"),
        ({"pattern": "unstructured", "share": 0.99}, "share 0.99 takes all 32 weights of 'classifier'"),
        ({"pattern": "unstructured", "share": 0.001}, "no weight to make zero"),
    ],
)
def test_what_is_asked_wrongly_is_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    assert message in refusal(lively(DS_CNN), **options)


def test_a_model_with_nothing_in_fours_is_refused() -> None:
    assert "no weight to make zero in Sequential" in refusal(nn.Sequential(nn.Linear(6, 8)), pattern="2:4")


def test_a_weight_that_is_not_finite_is_named() -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    model[0].weight.data[0, 0] = float("inf")
    assert "'0' holds NaN or infinity" in refusal(model, pattern="2:4")


def test_a_quantized_model_is_refused() -> None:
    folded = fold_batch_norm(lively(DS_CNN), torch.zeros(1, *DS_CNN.input_shape))
    quantized = nncf_backend.insert_quantizers(folded, noise(DS_CNN.input_shape, 4))
    assert "quantized already" in refusal(quantized, pattern="2:4")
