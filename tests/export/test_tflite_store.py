import copy
import dataclasses
import functools
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.compress import QuantizedProgram, nncf_backend
from edgekd.compress.fold import fold_batch_norm
from edgekd.compress.program import FakeQuantizedWeight
from edgekd.compress.quantizers import Quantizer
from edgekd.export.tflite import export_float32
from edgekd.export.tflite_store import SMALLEST, halve_weights, store_embeddings, store_weights
from edgekd.models.build import example_input
from edgekd.models.evaluate import predict
from edgekd.runtimes.litert import LiteRTSession
from edgekd.runtimes.session import Placement
from edgekd.verify.graph import FileGraph, FileTensor
from edgekd.verify.readback import read_back
from edgekd.verify.tflite import read_graph
from tests.export.small import SHAPE, float_content, int8_content, quantized, samples, student
from tests.export.test_tflite import run

FAMILIES = ("ds_cnn", "resnet")
WORDS, WIDTH, IDS = 200, 16, 12


def weights_rounded(program: QuantizedProgram) -> nn.Module:
    """The float model with its weights where their quantizers put them, and no activation quantizer."""
    model = copy.deepcopy(program.model)
    for entry, placed in zip(program.table, nncf_backend.quantizers_of(model, program.example), strict=True):
        if entry.kind == "weight":
            weight = model.get_parameter(placed.tensor)
            weight.data = FakeQuantizedWeight(entry)(weight.data)
    for placed in nncf_backend.quantizers_of(program.model, program.example):
        nncf_backend.replace_quantizers(model, placed.hooks, None)
    return model.eval()


def exported(model: nn.Module, example: torch.Tensor) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.tflite"
        export_float32(model, example, file)
        return file.read_bytes()


@functools.cache
def rounded_content(family: str) -> bytes:
    return exported(weights_rounded(quantized(family)), example_input(SHAPE))


def weight_table(family: str) -> tuple[Quantizer, ...]:
    return tuple(entry for entry in quantized(family).table if entry.kind == "weight")


def graph_of(content: bytes, folder: Path) -> FileGraph:
    file = folder / "graph.tflite"
    file.write_bytes(content)
    return read_graph(file)


def constants(content: bytes, folder: Path, dtype: str) -> list[FileTensor]:
    tensors = graph_of(content, folder).tensors
    return [tensor for tensor in tensors if tensor.constant is not None and tensor.dtype == dtype]


def placement(content: bytes, folder: Path) -> Placement:
    file = folder / "placed.tflite"
    file.write_bytes(content)
    return LiteRTSession(file).placement()


def images() -> np.ndarray:
    return np.ascontiguousarray(samples().numpy().transpose(0, 2, 3, 1))


def halved(model: nn.Module) -> nn.Module:
    """The model with every parameter that is stored as float16 rounded to it."""
    rounded = copy.deepcopy(model)
    for parameter in rounded.parameters():
        if parameter.numel() >= SMALLEST:
            parameter.data = parameter.data.half().float()
    return rounded


@pytest.mark.parametrize("family", FAMILIES)
def test_a_halved_file_answers_like_torch_with_halved_weights(family: str) -> None:
    model = fold_batch_norm(student(family), example_input(SHAPE))
    content = halve_weights(exported(model, example_input(SHAPE)))
    found = run(content, images())
    np.testing.assert_allclose(found, predict(halved(model), samples()), atol=2e-5)
    assert np.abs(found - predict(model, samples())).max() > 1e-4


def test_every_large_constant_is_halved(tmp_path: Path) -> None:
    before = [tensor.constant for tensor in constants(float_content(), tmp_path, "float32")]
    content = halve_weights(float_content())
    after = [tensor.constant for tensor in constants(content, tmp_path, "float16")]
    large = [values.astype(np.float16) for values in before if values.size >= SMALLEST]
    assert len(large) > 3
    assert sorted(values.tobytes() for values in after) == sorted(values.tobytes() for values in large)
    assert all(tensor.constant.size < SMALLEST for tensor in constants(content, tmp_path, "float32"))
    assert len(content) < len(float_content())


@pytest.mark.parametrize("family", FAMILIES)
def test_xnnpack_takes_all_of_a_halved_or_stored_file(family: str, tmp_path: Path) -> None:
    content = rounded_content(family)
    for smaller in (halve_weights(content), store_weights(content, weight_table(family))):
        placed = placement(smaller, tmp_path)
        assert placed.undelegated == ()
        assert placed.delegates == 1
        assert placed.total > len(graph_of(content, tmp_path).nodes)


def test_large_biases_are_halved_and_still_delegated(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 96, 3, padding=1), nn.ReLU(), nn.Conv2d(96, 96, 3, groups=96)).eval()
    content = halve_weights(exported(model, example_input(SHAPE)))
    assert [tensor.shape for tensor in constants(content, tmp_path, "float16")].count((96,)) == 2
    assert placement(content, tmp_path).undelegated == ()
    np.testing.assert_allclose(run(content, images()), predict(halved(model), samples()), atol=2e-5)


def test_what_float16_cannot_hold_stays_float32(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)).eval()
    with torch.no_grad():
        model[1].weight[3, 5] = -7e4
    content = halve_weights(exported(model, torch.zeros(1, 16)))
    assert len(constants(content, tmp_path, "float16")) == 1
    inputs = torch.randn(20, 16)
    np.testing.assert_allclose(run(content, inputs.numpy()), predict(halved_first(model), inputs), rtol=1e-4, atol=1e-4)


def halved_first(model: nn.Module) -> nn.Module:
    rounded = copy.deepcopy(model)
    rounded[0] = halved(rounded[0])
    return rounded


@pytest.mark.parametrize("family", FAMILIES)
def test_stored_weights_are_the_learned_ones_and_change_no_answer(family: str, tmp_path: Path) -> None:
    content = store_weights(rounded_content(family), weight_table(family))
    result = read_back(weight_table(family), graph_of(content, tmp_path))
    assert result.problems == ()
    assert result.exact == len(weight_table(family))
    np.testing.assert_array_equal(run(content, images()), run(rounded_content(family), images()))
    np.testing.assert_allclose(
        run(content, images()), predict(weights_rounded(quantized(family)), samples()), atol=1e-4
    )
    assert len(content) < len(rounded_content(family))


def test_stored_numbers_times_scales_are_the_weights(tmp_path: Path) -> None:
    before = {tensor.constant.tobytes() for tensor in constants(rounded_content("ds_cnn"), tmp_path, "float32")}
    stored = constants(store_weights(rounded_content("ds_cnn"), weight_table("ds_cnn")), tmp_path, "int8")
    assert len(stored) == len(weight_table("ds_cnn"))
    for tensor in stored:
        along = [-1 if dimension == tensor.axis else 1 for dimension in range(tensor.constant.ndim)]
        values = tensor.constant.astype(np.float32) * np.reshape(tensor.scale, along)
        assert values.tobytes() in before
        assert np.abs(tensor.constant).max() == 127


def test_a_weight_that_no_quantizer_gives_stays_float32(tmp_path: Path) -> None:
    first, *others = weight_table("ds_cnn")
    nudged = np.nextafter(np.float32(first.scale[-1]), np.float32(1))
    wrong = dataclasses.replace(first, scale=(*first.scale[:-1], float(nudged)))
    content = store_weights(rounded_content("ds_cnn"), (wrong, *others))
    assert len(constants(content, tmp_path, "int8")) == len(others)
    np.testing.assert_array_equal(run(content, images()), run(rounded_content("ds_cnn"), images()))


def test_activation_quantizers_store_nothing(tmp_path: Path) -> None:
    activations = [dataclasses.replace(entry, kind="activation") for entry in weight_table("ds_cnn")]
    assert constants(store_weights(rounded_content("ds_cnn"), activations), tmp_path, "int8") == []


def test_a_file_with_nothing_to_store_keeps_its_bytes() -> None:
    table = quantized().table
    assert store_weights(int8_content(), table) == int8_content()
    assert store_embeddings(int8_content(), table) == int8_content()
    assert store_weights(float_content(), table) == float_content()


def test_storing_twice_gives_the_same_bytes() -> None:
    table = weight_table("ds_cnn")
    once = store_weights(rounded_content("ds_cnn"), table)
    assert store_weights(rounded_content("ds_cnn"), table) == once
    assert store_weights(once, table) == once
    assert halve_weights(float_content()) == halve_weights(float_content())


class Words(nn.Module):
    """Token ids, shape (N, IDS), to three scores; or to the scores of every word, by the table itself."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.table, self.tied = nn.Embedding(WORDS, WIDTH), tied
        self.linear = nn.Linear(WIDTH, WORDS if tied else 3)
        if tied:
            self.linear.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.linear(self.table(ids).mean(1))
        return outputs


def words(per_row: bool, tied: bool = False) -> tuple[Words, Quantizer]:
    """A model with its table on an int8 grid of one scale, or of one a row."""
    torch.manual_seed(0)
    model = Words(tied).eval()
    table = model.table.weight.data
    scale = (table.abs().amax(1) if per_row else table.abs().amax()[None]) / 127
    model.table.weight.data = torch.round(table / scale[:, None]) * scale[:, None]
    return model, Quantizer("table.weight", "weight", tuple(scale.tolist()), (0,) * len(scale), -127, 127, 0)


def tokens() -> np.ndarray:
    ids = np.random.default_rng(0).integers(0, WORDS, (20, IDS), dtype=np.int32)
    ids[0, :2] = 0, WORDS - 1
    return ids


def words_content(model: nn.Module) -> bytes:
    return exported(model, torch.zeros(1, IDS, dtype=torch.int32))


@pytest.mark.parametrize(("per_row", "slow"), [(False, ("0:GATHER",)), (True, ("0:RESHAPE", "1:EMBEDDING_LOOKUP"))])
def test_a_table_of_words_is_stored_as_int8(per_row: bool, slow: tuple[str, ...], tmp_path: Path) -> None:
    model, entry = words(per_row)
    plain = words_content(model)
    content = store_embeddings(plain, [entry])
    (table,) = constants(content, tmp_path, "int8")
    assert table.scale == tuple(np.float32(entry.scale))
    rows = table.constant.astype(np.float32) * np.reshape(table.scale, (-1, 1))
    np.testing.assert_array_equal(rows, model.table.weight.detach().numpy())
    weight, bias = (parameter.detach().numpy() for parameter in model.linear.parameters())
    np.testing.assert_allclose(run(content, tokens()), rows[tokens()].mean(1) @ weight.T + bias, atol=1e-6)
    np.testing.assert_array_equal(run(content, tokens()), run(plain, tokens()))
    assert placement(content, tmp_path).undelegated == slow
    assert len(content) < len(plain) - 3 * WORDS * WIDTH + (12 * WORDS if per_row else 0) + 200
    result = read_back([entry], graph_of(content, tmp_path))
    assert (result.exact, result.problems) == (1, ())


@pytest.mark.parametrize("per_row", [False, True])
def test_a_table_that_is_a_layer_too_is_stored_once(per_row: bool, tmp_path: Path) -> None:
    model, entry = words(per_row, tied=True)
    plain = words_content(model)
    content = store_weights(store_embeddings(plain, [entry]), [entry])
    assert {tensor.constant.tobytes() for tensor in constants(content, tmp_path, "int8")} == {
        torch.round(model.table.weight / torch.tensor(entry.scale)[:, None]).to(torch.int8).numpy().tobytes()
    }
    assert len(content) < WORDS * WIDTH + WORDS * 12 * (2 if per_row else 0) + 4000
    np.testing.assert_array_equal(run(content, tokens()), run(plain, tokens()))


def test_weights_are_stored_around_a_table_that_is_not(tmp_path: Path) -> None:
    model, entry = words(per_row=True)
    content = store_weights(words_content(model), [entry])
    assert constants(content, tmp_path, "int8") == []
    np.testing.assert_array_equal(run(content, tokens()), run(words_content(model), tokens()))


def test_a_table_off_the_grid_stays_float32(tmp_path: Path) -> None:
    model, entry = words(per_row=False)
    with torch.no_grad():
        model.table.weight[7, 3] += 1e-4
    plain = words_content(model)
    assert store_embeddings(plain, [entry]) == plain


def test_a_halved_table_is_read_by_its_rows(tmp_path: Path) -> None:
    model, _ = words(per_row=False)
    model.table.weight.data = torch.randn(WORDS, WIDTH)
    content = halve_weights(words_content(model))
    assert [tensor.shape for tensor in constants(content, tmp_path, "float16")] == [(WORDS, WIDTH)]
    whole = [tensor for tensor in graph_of(content, tmp_path).tensors if tensor.shape == (WORDS, WIDTH)]
    assert [tensor.dtype for tensor in whole] == ["float16"]
    rows = model.table.weight.detach().numpy().astype(np.float16).astype(np.float32)
    weight, bias = (parameter.detach().numpy() for parameter in model.linear.parameters())
    np.testing.assert_allclose(run(content, tokens()), rows[tokens()].mean(1) @ weight.T + bias, atol=1e-6)
