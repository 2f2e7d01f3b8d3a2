"""Which layer is hard to quantize, on networks in which one was made so."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.compress import nncf_backend
from edgekd.compress.fold import fold_batch_norm
from edgekd.compress.program import QuantizedProgram
from edgekd.compress.sensitivity import Samples, fewest_float, sensitivity, sqnr_db
from edgekd.errors import GateError
from edgekd.models.build import Architecture
from edgekd.models.evaluate import predict
from tests.compress.students import lively, noise

SHAPE, LARGE = (1, 8, 8), 1000.0
EXAMPLE = torch.zeros(1, *SHAPE)
HARD, FED = "blocks.1.1.0", "blocks.2.0.0"
"""A convolution of which one channel is scaled up, and the one behind it, which scales it down again."""


def folded() -> nn.Module:
    return fold_batch_norm(lively(Architecture("ds_cnn", {"width": 8, "blocks": 3}, SHAPE, 4)), EXAMPLE)


def hard() -> nn.Module:
    """The same function, with one channel LARGE times as large between two layers: ReLU lets a factor through."""
    model = folded()
    before, behind = model.get_submodule(HARD), model.get_submodule(FED)
    with torch.no_grad():
        before.weight[3] *= LARGE
        before.bias[3] *= LARGE
        behind.weight[3] /= LARGE
    return model


def samples_of(model: nn.Module) -> Samples:
    inputs = noise(SHAPE, 96, seed=5)
    reference = predict(model, inputs)
    power = (reference**2).sum()
    return Samples(inputs, reference, lambda outputs: float(1 - ((outputs - reference) ** 2).sum() / power))


@pytest.fixture(scope="module")
def quantized() -> nn.Module:
    return nncf_backend.insert_quantizers(hard(), noise(SHAPE, 32))


def test_the_factor_changes_no_answer() -> None:
    inputs = noise(SHAPE, 16)
    np.testing.assert_allclose(predict(hard(), inputs), predict(folded(), inputs), rtol=1e-3, atol=1e-4)


def test_signal_to_noise() -> None:
    reference = np.full((2, 3), 10.0)
    assert sqnr_db(reference, reference + 1.0) == pytest.approx(20.0)
    assert sqnr_db(reference, reference) == pytest.approx(20 * math.log10(2**23))


def test_the_layer_that_was_made_hard_comes_first(quantized: nn.Module) -> None:
    found = sensitivity(quantized, EXAMPLE, samples_of(hard()))
    assert found[0].layer == HARD
    assert found[0].sqnr_db > found[1].sqnr_db + 6
    assert {one.layer for one in found} == {
        "stem.0", *(f"blocks.{block}.{part}.0" for block in range(3) for part in range(2)), "classifier"
    }  # fmt: skip


def test_exactly_that_layer_is_kept_float(quantized: nn.Module) -> None:
    samples = samples_of(hard())
    int8 = samples.score(predict(quantized, samples.inputs))
    assert fewest_float(quantized, EXAMPLE, samples, int8) == ()
    floor = 0.95
    assert int8 < floor
    assert fewest_float(quantized, EXAMPLE, samples, floor) == (HARD,)


def test_what_is_float_has_no_quantizer_and_the_rest_keeps_its_own(quantized: nn.Module) -> None:
    before = QuantizedProgram.of(quantized, EXAMPLE).table
    after = QuantizedProgram.of(nncf_backend.keep_float(quantized, EXAMPLE, [HARD]), EXAMPLE).table
    weights = [{entry.tensor for entry in table if entry.kind == "weight"} for table in (before, after)]
    assert weights[0] - weights[1] == {f"{HARD}.weight", f"{FED}.weight"}
    assert len(before) - len(after) == 3
    kept = {(entry.tensor, entry.scale) for entry in after}
    assert kept <= {(entry.tensor, entry.scale) for entry in before}
    assert [entry.tensor for entry in before][-1] == [entry.tensor for entry in after][-1]


def test_a_floor_that_nothing_reaches_names_the_best(quantized: nn.Module) -> None:
    with pytest.raises(GateError, match=r"a score of 1\.5 is not reached; the best is .* with .*; lower"):
        fewest_float(quantized, EXAMPLE, samples_of(hard()), 1.5)
