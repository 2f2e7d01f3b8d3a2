from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.errors import UsageError
from edgekd.models.build import Architecture, build, example_input, parameter_count
from edgekd.models.text_cnn import text_cnn
from edgekd.models.text_encoder import SelfAttention, text_encoder

LENGTH, CLASSES, VOCABULARY = 12, 3, 50
SMALL = {
    "text_cnn": {"width": 8, "channels": 6, "kernels": (2, 3)},
    "text_encoder": {"width": 16, "layers": 2, "heads": 4, "hidden": 24},
}


def model(family: str, **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    make = {"text_cnn": text_cnn, "text_encoder": text_encoder}[family]
    return make((LENGTH,), CLASSES, VOCABULARY, **{**SMALL[family], **changes}).eval()


def sentences(count: int = 8, seed: int = 0) -> torch.Tensor:
    numbers = np.random.default_rng(seed).integers(0, VOCABULARY, (count, LENGTH), dtype=np.int32)
    return torch.from_numpy(numbers)


def answers(student: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        outputs: torch.Tensor = student(ids)
    return outputs


def cnn_parameters(vocabulary: int, classes: int, width: int, channels: int, kernels: Sequence[int]) -> int:
    convolutions = sum(width * channels * size + channels for size in kernels)
    return vocabulary * width + convolutions + channels * len(kernels) * classes + classes


def encoder_parameters(length: int, vocabulary: int, classes: int, width: int, layers: int, hidden: int) -> int:
    attention = 4 * (width * width + width)
    block = attention + (width * hidden + hidden) + (hidden * width + width) + 2 * 2 * width
    return vocabulary * width + length * width + 2 * width + layers * block + width * classes + classes


@pytest.mark.parametrize(
    ("vocabulary", "classes", "width", "channels", "kernels"),
    [(5000, 2, 64, 64, (3, 4, 5)), (100, 7, 8, 3, (1,)), (30, 2, 5, 4, (2, 3, 2, 9))],
)
def test_text_cnn_has_the_parameters_of_its_formula(
    vocabulary: int, classes: int, width: int, channels: int, kernels: tuple[int, ...]
) -> None:
    student = text_cnn((32,), classes, vocabulary, width=width, channels=channels, kernels=kernels)
    assert parameter_count(student) == cnn_parameters(vocabulary, classes, width, channels, kernels)


@pytest.mark.parametrize(
    ("length", "vocabulary", "classes", "width", "layers", "heads", "hidden"),
    [(32, 5000, 2, 64, 2, 4, 128), (7, 40, 5, 12, 1, 3, 5), (1, 3, 2, 8, 4, 1, 8)],
)
def test_text_encoder_has_the_parameters_of_its_formula(
    length: int, vocabulary: int, classes: int, width: int, layers: int, heads: int, hidden: int
) -> None:
    student = text_encoder((length,), classes, vocabulary, width=width, layers=layers, heads=heads, hidden=hidden)
    assert parameter_count(student) == encoder_parameters(length, vocabulary, classes, width, layers, hidden)


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_token_ids_give_one_logit_a_class(family: str, dtype: torch.dtype) -> None:
    outputs = answers(model(family), sentences(5).to(dtype))
    assert outputs.shape == (5, CLASSES)
    assert outputs.dtype == torch.float32


@pytest.mark.parametrize("family", SMALL)
def test_a_sentence_does_not_depend_on_its_neighbours(family: str) -> None:
    student, ids = model(family), sentences(6)
    alone = torch.cat([answers(student, one[None]) for one in ids])
    torch.testing.assert_close(answers(student, ids), alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", SMALL)
def test_the_gradient_reaches_every_parameter(family: str) -> None:
    """But for the bias of the keys: it adds the same number to all scores of a query, and softmax does not see it."""
    student = model(family).train()
    ids = torch.arange(VOCABULARY + 10, dtype=torch.int32)[: 4 * LENGTH].reshape(4, LENGTH) % VOCABULARY
    nn.functional.cross_entropy(student(ids), torch.arange(4) % CLASSES).backward()
    sizes = {name: float(one.grad.abs().max()) for name, one in student.named_parameters() if one.grad is not None}
    keys = {name for name in sizes if name.endswith("attention.key.bias")}
    assert sizes.keys() == dict(student.named_parameters()).keys()
    assert {name for name, size in sizes.items() if size < 1e-9} <= keys
    assert all(sizes[name] < 1e-7 for name in keys)


def test_the_order_of_words_changes_the_answer_of_the_encoder() -> None:
    student, ids = model("text_encoder"), sentences()
    difference = (answers(student, ids.flip(1)) - answers(student, ids)).abs().amax(1)
    assert (difference > 1e-3).all()


def test_without_positions_the_encoder_sees_a_bag_of_words() -> None:
    student, ids = model("text_encoder"), sentences()
    student.positions.data.zero_()
    order = torch.randperm(LENGTH, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(answers(student, ids[:, order]), answers(student, ids), rtol=0, atol=1e-5)


def test_every_position_has_an_embedding_of_its_own() -> None:
    student = model("text_encoder")
    student.positions.data *= 50
    word = torch.full((LENGTH, LENGTH), 1, dtype=torch.int32)
    found = answers(student, torch.where(torch.eye(LENGTH, dtype=torch.bool), 2, word).to(torch.int32))
    assert torch.pdist(found).min() > 1e-4


@pytest.mark.parametrize("family", SMALL)
def test_every_word_counts(family: str) -> None:
    student = model(family, **({"kernels": (1,)} if family == "text_cnn" else {}))
    student.tokens.weight.data *= 10
    plain = torch.zeros(1, LENGTH, dtype=torch.int32)
    for place in range(LENGTH):
        changed = plain.clone()
        changed[0, place] = 7
        assert (answers(student, changed) - answers(student, plain)).abs().max() > 1e-4


def test_text_cnn_finds_a_phrase_wherever_it_stands() -> None:
    student, phrase = model("text_cnn"), torch.tensor([4, 9, 17], dtype=torch.int32)
    found = []
    for place in range(3, LENGTH - 6):
        ids = torch.zeros(1, LENGTH, dtype=torch.int32)
        ids[0, place : place + 3] = phrase
        found.append(answers(student, ids))
    assert len(found) > 2
    torch.testing.assert_close(torch.cat(found), found[0].expand(len(found), -1), rtol=0, atol=1e-6)
    turned = torch.zeros(1, LENGTH, dtype=torch.int32)
    turned[0, 3:6] = phrase.flip(0)
    assert (answers(student, turned) - found[0]).abs().max() > 1e-4


def test_text_cnn_is_a_matrix_product_for_each_run_of_words() -> None:
    student, ids = model("text_cnn", kernels=(3,)), sentences(4)
    table = student.tokens.weight.detach().numpy()
    weight, bias = (one.detach().numpy() for one in student.branches[0][0].parameters())
    last, offset = (one.detach().numpy() for one in student.classifier.parameters())
    for sentence, found in zip(ids.numpy(), answers(student, ids).numpy(), strict=True):
        runs = [table[sentence[place : place + 3]] for place in range(LENGTH - 2)]
        scores = [np.einsum("ocw,wc->o", weight[..., 0], run) + bias for run in runs]
        np.testing.assert_allclose(found, last @ np.maximum(scores, 0).max(0) + offset, atol=1e-5)


def test_attention_is_a_softmax_of_scaled_products_in_each_head() -> None:
    torch.manual_seed(0)
    heads, width = 4, 16
    attention = SelfAttention(width, heads).eval()
    inputs = torch.randn(2, LENGTH, width)
    found = answers(attention, inputs).numpy()

    def projected(name: str, rows: np.ndarray) -> np.ndarray:
        weight, bias = (one.detach().numpy() for one in getattr(attention, name).parameters())
        return rows @ weight.T + bias

    for sample, rows in enumerate(inputs.numpy()):
        mixed = np.zeros((LENGTH, width), dtype=np.float32)
        query, key, value = (projected(name, rows) for name in ("query", "key", "value"))
        for head in range(heads):
            part = slice(head * width // heads, (head + 1) * width // heads)
            powers = np.exp(query[:, part] @ key[:, part].T / np.sqrt(width // heads))
            mixed[:, part] = powers / powers.sum(1, keepdims=True) @ value[:, part]
        np.testing.assert_allclose(found[sample], projected("output", mixed), atol=1e-5)


def test_dropout_is_off_when_the_model_is_used() -> None:
    for family in SMALL:
        student, ids = model(family, dropout=0.5), sentences()
        assert torch.equal(answers(student, ids), answers(student, ids))
        student.train()
        assert not torch.equal(answers(student, ids), answers(student, ids))


@pytest.mark.parametrize(("width", "heads"), [(10, 4), (64, 7), (3, 2)])
def test_a_width_that_heads_do_not_divide_is_refused(width: int, heads: int) -> None:
    architecture = Architecture("text_encoder", {"width": width, "heads": heads}, (LENGTH,), 2, VOCABULARY)
    with pytest.raises(UsageError, match=f"width {width} is not a multiple of heads {heads}") as caught:
        build(architecture, "student")
    assert "\n" not in str(caught.value)


def test_a_sentence_shorter_than_a_kernel_is_refused() -> None:
    with pytest.raises(UsageError, match="student: text_cnn") as caught:
        build(Architecture("text_cnn", {"kernels": [3, 4, 5]}, (4,), 2, VOCABULARY), "student")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", SMALL)
def test_the_example_of_a_text_model_is_token_ids(family: str) -> None:
    architecture = Architecture(family, SMALL[family], (LENGTH,), CLASSES, VOCABULARY)
    example = example_input(architecture)
    assert (example.dtype, example.shape) == (torch.int32, (1, LENGTH))
    assert build(architecture, "student")(example).shape == (1, CLASSES)


@pytest.mark.parametrize("family", [text_cnn, text_encoder])
def test_the_largest_id_of_the_vocabulary_is_taken_and_no_larger_one(family: Callable[..., nn.Module]) -> None:
    student = family((LENGTH,), 2, VOCABULARY, width=8).eval()
    last = torch.full((1, LENGTH), VOCABULARY - 1, dtype=torch.int32)
    assert answers(student, last).isfinite().all()
    with pytest.raises(IndexError):
        student(last + 1)
