import copy
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.compress import quantize
from edgekd.compress.fold import fold_batch_norm
from edgekd.compress.program import StoredWeight
from edgekd.compress.quantizers import Quantizer, kept
from edgekd.export import tflite_metadata, tflite_store
from edgekd.export.formats import export_program
from edgekd.export.tflite_store import SMALLEST, halve_weights, store_embeddings, store_weights
from edgekd.models.evaluate import predict
from edgekd.readers.graph import FileGraph, FileTensor, layout_changes
from edgekd.readers.tflite import read_graph
from edgekd.runtimes.litert import LiteRTSession
from edgekd.runtimes.session import Placement
from edgekd.verify.readback import read_back
from tests.export.small import (
    FEATURES,
    UNLABELLED,
    bare,
    bare_content,
    bare_float_content,
    quantized,
    samples,
    student,
)
from tests.export.test_tflite import run

FAMILIES = ("ds_cnn", "resnet")
WORDS, WIDTH, IDS = 200, 16, 12


@functools.cache
def weights_only_content(family: str = "ds_cnn", stored: bool = True) -> bytes:
    """The program's int8 weights and float activations; not stored, the converter's file quantizes them as it runs."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tflite_metadata, "with_metadata", lambda content, card: content)
        if not stored:
            patch.setattr(tflite_store, "store_weights", lambda content: content)
        return export_program(quantized(family), "tflite", "int8-weights", Path(folder), FEATURES).read_bytes()


def weight_table(family: str) -> tuple[Quantizer, ...]:
    return kept(quantized(family).table, "int8-weights")


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
    model = fold_batch_norm(student(family), quantized().example)
    content = halve_weights(bare(model, quantized().example))
    found = run(content, images())
    np.testing.assert_allclose(found, predict(halved(model), samples()), atol=2e-5)
    assert np.abs(found - predict(model, samples())).max() > 1e-4


def test_every_large_constant_is_halved(tmp_path: Path) -> None:
    before = [tensor.constant for tensor in constants(bare_float_content(), tmp_path, "float32")]
    content = halve_weights(bare_float_content())
    after = [tensor.constant for tensor in constants(content, tmp_path, "float16")]
    large = [values.astype(np.float16) for values in before if values.size >= SMALLEST]
    assert len(large) > 3
    assert sorted(values.tobytes() for values in after) == sorted(values.tobytes() for values in large)
    assert all(tensor.constant.size < SMALLEST for tensor in constants(content, tmp_path, "float32"))
    assert len(content) < len(bare_float_content())


@pytest.mark.parametrize("family", FAMILIES)
def test_xnnpack_takes_all_of_a_halved_or_stored_file(family: str, tmp_path: Path) -> None:
    halves = halve_weights(bare(student(family), quantized().example))
    for smaller in (halves, weights_only_content(family)):
        placed, nodes = placement(smaller, tmp_path), graph_of(smaller, tmp_path).nodes
        assert placed.undelegated == ()
        assert placed.delegates == 1
        assert "DEQUANTIZE" in {node.op for node in nodes}
        assert layout_changes(graph_of(smaller, tmp_path)) == []


def test_large_biases_are_halved_and_still_delegated(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 96, 3, padding=1), nn.ReLU(), nn.Conv2d(96, 96, 3, groups=96)).eval()
    content = halve_weights(bare(model, quantized().example))
    assert [tensor.shape for tensor in constants(content, tmp_path, "float16")].count((96,)) == 2
    assert placement(content, tmp_path).undelegated == ()
    np.testing.assert_allclose(run(content, images()), predict(halved(model), samples()), atol=2e-5)


def test_what_float16_cannot_hold_stays_float32(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)).eval()
    with torch.no_grad():
        model[1].weight[3, 5] = -7e4
    content = halve_weights(bare(model, torch.zeros(1, 16)))
    assert len(constants(content, tmp_path, "float16")) == 1
    inputs = torch.randn(20, 16)
    np.testing.assert_allclose(run(content, inputs.numpy()), predict(halved_first(model), inputs), rtol=1e-4, atol=1e-4)


def halved_first(model: nn.Module) -> nn.Module:
    rounded = copy.deepcopy(model)
    rounded[0] = halved(rounded[0])
    return rounded


@pytest.mark.parametrize("family", FAMILIES)
def test_stored_weights_are_the_learned_ones_and_change_no_answer(family: str, tmp_path: Path) -> None:
    content = weights_only_content(family)
    result = read_back(weight_table(family), graph_of(content, tmp_path))
    assert result.problems == ()
    assert result.exact == len(weight_table(family))
    found = run(content, images())
    np.testing.assert_allclose(found, run(weights_only_content(family, stored=False), images()), atol=1e-5)
    np.testing.assert_allclose(found, predict(quantized(family).weights_only(), samples()), atol=1e-4)
    assert len(content) < len(weights_only_content(family, stored=False))


def layouts(weight: np.ndarray) -> set[bytes]:
    """A weight's bytes as a TFLite layer may want them: outputs first, or last for a depthwise convolution."""
    if weight.ndim == 2:
        return {weight.tobytes()}
    return {weight.transpose(0, 2, 3, 1).tobytes(), weight.transpose(1, 2, 3, 0).tobytes()}


@pytest.mark.parametrize("family", FAMILIES)
def test_stored_numbers_are_those_of_the_program(family: str, tmp_path: Path) -> None:
    stored = {tensor.constant.tobytes() for tensor in constants(weights_only_content(family), tmp_path, "int8")}
    learned = [
        layouts(module.stored.numpy())
        for module in quantized(family).frozen(stored=True).modules()
        if isinstance(module, StoredWeight)
    ]
    assert len(stored) == len(learned) == len(weight_table(family))
    assert all(stored & weight for weight in learned)


def test_what_is_not_quantized_stays_float32(tmp_path: Path) -> None:
    biases = [values.tobytes() for name, values in arrays(quantized().model) if name.endswith("bias")]
    found = [tensor.constant.tobytes() for tensor in constants(weights_only_content(), tmp_path, "float32")]
    assert len(found) > 3
    assert set(found) <= set(biases)


def arrays(model: nn.Module) -> list[tuple[str, np.ndarray]]:
    return [(name, parameter.detach().numpy()) for name, parameter in model.named_parameters()]


class Over(nn.Module):
    """A layer and a classifier on the mean of what it gives over all places."""

    def __init__(self, layer: nn.Module, places: tuple[int, ...]) -> None:
        super().__init__()
        self.layer, self.places, self.last = layer, places, nn.Linear(6, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.last(self.layer(inputs).mean(self.places))
        return outputs


@pytest.mark.parametrize(
    ("layer", "places", "shape"),
    [
        (nn.Conv1d(3, 6, 3), (2,), (3, 9)),
        (nn.Conv2d(3, 6, 3, groups=3), (2, 3), (3, 7, 5)),
        (nn.Conv2d(3, 6, (4, 1)), (2, 3), (3, 9, 1)),
        (nn.Linear(5, 6), (1,), (7, 5)),
    ],
    ids=["over time", "two filters a channel", "one column", "over rows"],
)
def test_the_weights_of_every_layer_are_stored_as_it_reads_them(
    layer: nn.Module, places: tuple[int, ...], shape: tuple[int, ...], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    program = quantize(Over(layer, places).eval(), torch.randn(16, *shape))
    file = export_program(program, "tflite", "int8-weights", tmp_path, UNLABELLED)
    graph, session, inputs = read_graph(file), LiteRTSession(file), torch.randn(20, *shape)
    assert read_back(kept(program.table, "int8-weights"), graph).problems == ()
    assert session.placement().undelegated == ()
    found = session.run(session.encode(inputs.numpy()))
    np.testing.assert_allclose(found, predict(program.weights_only(), inputs), atol=1e-4)


class Shared(nn.Module):
    """A weight that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.layer(torch.relu(self.layer(inputs)))
        return outputs.mean((2, 3))


def test_a_weight_of_two_layers_is_stored_for_both(tmp_path: Path) -> None:
    torch.manual_seed(0)
    program = quantize(Shared().eval(), samples(16))
    file = export_program(program, "tflite", "int8-weights", tmp_path, UNLABELLED)
    assert read_back(kept(program.table, "int8-weights"), read_graph(file)).problems == ()
    assert LiteRTSession(file).placement().undelegated == ()
    np.testing.assert_allclose(run(file.read_bytes(), images()), predict(program.weights_only(), samples()), atol=1e-4)


@pytest.mark.parametrize("content", [bare_content, bare_float_content])
def test_a_file_with_nothing_to_store_keeps_its_bytes(content: Callable[[], bytes]) -> None:
    assert store_weights(content()) == content()
    assert store_embeddings(content(), quantized().table) == content()


def test_storing_twice_gives_the_same_bytes() -> None:
    once = weights_only_content()
    assert store_weights(weights_only_content(stored=False)) == once
    assert store_weights(once) == once
    assert halve_weights(bare_float_content()) == halve_weights(bare_float_content())


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
    return bare(model, torch.zeros(1, IDS, dtype=torch.int32))


@pytest.mark.parametrize(("per_row", "lookups"), [(False, ("0:GATHER",)), (True, ("0:RESHAPE", "1:EMBEDDING_LOOKUP"))])
def test_a_table_of_words_is_stored_as_int8(per_row: bool, lookups: tuple[str, ...], tmp_path: Path) -> None:
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
    placed = placement(content, tmp_path)
    assert (placed.undelegated, placed.lookups) == ((), lookups)
    assert len(content) < len(plain) - 3 * WORDS * WIDTH + (12 * WORDS if per_row else 0) + 200
    result = read_back([entry], graph_of(content, tmp_path))
    assert (result.exact, result.problems) == (1, ())


@pytest.mark.parametrize("per_row", [False, True])
def test_a_table_that_is_a_layer_too_answers_as_before(per_row: bool, tmp_path: Path) -> None:
    model, entry = words(per_row, tied=True)
    plain = words_content(model)
    content = store_embeddings(plain, [entry])
    assert {tensor.constant.tobytes() for tensor in constants(content, tmp_path, "int8")} == {
        torch.round(model.table.weight / torch.tensor(entry.scale)[:, None]).to(torch.int8).numpy().tobytes()
    }
    np.testing.assert_array_equal(run(content, tokens()), run(plain, tokens()))


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
