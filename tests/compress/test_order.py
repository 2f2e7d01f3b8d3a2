"""The order of compression, as recipes write it."""

from collections.abc import Sequence

import pytest

from edgekd.compress.order import in_order
from edgekd.errors import UsageError
from edgekd.recipe import Quantization, Recipe, load_recipe

TRAIN = "train = { epochs = 1 }"
PRUNE = f'{{ kind = "prune", macs = 0.5, {TRAIN} }}'
FACTORIZE = f'{{ kind = "factorize", energy = 0.9, {TRAIN} }}'
SPARSIFY = f'{{ kind = "sparsify", share = 0.5, {TRAIN} }}'
QAT = f'{{ kind = "quantize", {TRAIN} }}'
PTQ = '{ kind = "quantize", method = "ptq" }'


def recipe(*entries: str, more: Sequence[str] = ()) -> Recipe:
    return load_recipe("digits", [f"compress=[{', '.join(entries)}]", *more]).recipe


def refusal(*entries: str) -> str:
    found = recipe(*entries)
    with pytest.raises(UsageError) as caught:
        in_order(found.compress, found.quantize)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_everything_in_its_order() -> None:
    found = recipe(PRUNE, FACTORIZE, SPARSIFY)
    shrinking, quantization = in_order(found.compress, found.quantize)
    assert [one.kind for one in shrinking] == ["prune", "factorize", "sparsify"]
    assert (quantization.method, quantization.calibration_samples) == ("qat", 256)
    assert quantization.train is not None
    assert quantization.train.epochs == 4


def test_the_short_form_and_the_last_entry_say_the_same() -> None:
    short = recipe()
    asked = f'{{ kind = "quantize", calibration_samples = 256, {TRAIN} }}'
    assert isinstance(short.quantize, Quantization)
    long_form, method = in_order(recipe(asked).compress, None), in_order((), short.quantize)
    assert long_form[0] == method[0] == []
    assert (long_form[1].method, long_form[1].calibration_samples) == ("qat", 256)


def test_ptq_does_not_look_at_the_training_of_qat() -> None:
    found = recipe(more=["quantize.method=ptq"])
    assert found.quantize is not None
    assert found.quantize.train is not None
    assert in_order((), found.quantize)[1] == Quantization(method="ptq", calibration_samples=256)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ((FACTORIZE, PRUNE), "'prune' comes before 'factorize': whole channels"),
        ((SPARSIFY, PRUNE), "'prune' comes before 'sparsify': whole channels"),
        ((SPARSIFY, FACTORIZE), "'factorize' comes before 'sparsify'"),
        ((PRUNE, PRUNE), "'prune' stands there twice in turn"),
        ((QAT, PRUNE), "'prune' comes before 'quantize'"),
        ((PTQ, SPARSIFY), "'sparsify' comes before 'quantize'"),
    ],
)
def test_another_order_is_refused_with_the_reason(entries: tuple[str, ...], said: str) -> None:
    assert said in refusal(*entries)


def test_a_second_quantization_is_refused_with_the_reason() -> None:
    assert "a second QAT would train weights that are rounded already" in refusal(QAT)
    assert "PTQ would calibrate anew and throw away the scales" in refusal(QAT, PTQ)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (f'{{ kind = "prune", {TRAIN} }}', "needs one of 'macs', 'params' and 'latency'"),
        (f'{{ kind = "prune", macs = 1.5, {TRAIN} }}', "less than 1, not 1.5"),
        (f'{{ kind = "prune", macs = 0.5, params = 0.5, {TRAIN} }}', "needs one of 'macs', 'params' and 'latency'"),
        (
            f'{{ kind = "prune", macs = 0.5, target = "tflite-arm", {TRAIN} }}',
            "needs 'target' with 'latency'",
        ),
        (f'{{ kind = "prune", latency = 0.5, {TRAIN} }}', "needs 'target' with 'latency', and only then"),
        (f'{{ kind = "prune", latency = 1.0, target = "tflite-arm", {TRAIN} }}', "less than 1, not 1.0"),
        (f'{{ kind = "prune", macs = 0.5, protected = [], {TRAIN} }}', "unknown key 'compress.0.protected'"),
        ('{ kind = "prune", macs = 0.5 }', "'compress.0.train' is missing"),
        (f'{{ kind = "factorize", {TRAIN} }}', "needs either 'energy' or 'rank'"),
        (f'{{ kind = "sparsify", pattern = "2:4", share = 0.5, {TRAIN} }}', "'sparsify' needs 'share'"),
        (f'{{ kind = "sparsify", {TRAIN} }}', "'sparsify' needs 'share'"),
        ('{ kind = "quantize" }', "qat needs a"),
        ('{ kind = "shrink" }', "must be one of"),
    ],
)
def test_an_entry_that_does_not_hold_together(entry: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipe(entry)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
