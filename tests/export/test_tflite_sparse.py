import contextlib
import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from torch import nn

from edgekd.compress.fold import fold_batch_norm
from edgekd.compress.sparsify import sparsify
from edgekd.errors import UsageError
from edgekd.export.tflite_graph import float_constants, read, set_constant, written
from edgekd.export.tflite_sparse import store_sparse
from edgekd.models.layers import conv_bn_relu
from edgekd.readers.graph import FileGraph
from edgekd.readers.tflite import read_graph
from edgekd.runtimes.litert import LiteRTSession
from tests.export.small import bare, int8_content

SHAPE = (3, 12, 12)
WIDE = 264
"""More inputs than a byte counts."""


def network() -> nn.Module:
    """As sparse inference wants it: a strided 3x3 stem, depthwise and 1x1 convolutions, a mean over positions."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [conv_bn_relu(3, 16, 3, 2), conv_bn_relu(16, 16, 3, groups=16), conv_bn_relu(16, WIDE, 1)]
        layers += [conv_bn_relu(WIDE, WIDE, 3, 2, groups=WIDE), conv_bn_relu(WIDE, 20, 1)]
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 4)).eval()
    return fold_batch_norm(model, torch.zeros(1, *SHAPE))


def sparse(share: float) -> nn.Module:
    return sparsify(network(), pattern="unstructured", share=share)


@functools.cache
def dense_content(share: float) -> bytes:
    """The model's file as it is without sparse storage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgekd.export.tflite_sparse.store_sparse", lambda content: content)
        return bare(sparse(share), torch.zeros(1, *SHAPE))


@functools.cache
def content() -> bytes:
    return bare(sparse(0.8), torch.zeros(1, *SHAPE))


def densified(content: bytes, folder: Path) -> int:
    return [node.op for node in graph_of(content, folder).nodes].count("DENSIFY")


def graph_of(content: bytes, folder: Path) -> FileGraph:
    file = folder / "graph.tflite"
    file.write_bytes(content)
    return read_graph(file)


def loaded(content: bytes, kernels: OpResolverType = OpResolverType.AUTO) -> Interpreter:
    interpreter = Interpreter(
        model_content=content, experimental_preserve_all_tensors=True, experimental_op_resolver_type=kernels
    )
    interpreter.allocate_tensors()
    inputs = np.random.default_rng(0).standard_normal((1, 12, 12, 3)).astype(np.float32)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], inputs)
    interpreter.invoke()
    return interpreter


def answer(content: bytes) -> np.ndarray:
    interpreter = loaded(content)
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def test_a_sparse_model_is_exported_smaller_and_answers_the_same(tmp_path: Path) -> None:
    assert densified(content(), tmp_path) == 2
    numbers = 16 * WIDE + WIDE * 20
    assert len(content()) < len(dense_content(0.8)) - 4 * 0.8 * numbers + 2 * 0.2 * numbers + 2000
    assert np.array_equal(answer(content()), answer(dense_content(0.8)))


def test_the_runtime_and_the_reader_find_the_weights(tmp_path: Path) -> None:
    graph = graph_of(content(), tmp_path)
    plain = loaded(content(), OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    layers = [one for one in sparse(0.8).modules() if isinstance(one, nn.Conv2d)]
    weights = {tuple(one.weight.shape): one.weight.detach().permute(0, 2, 3, 1).numpy() for one in layers}
    for node in graph.nodes:
        if node.op == "DENSIFY":
            stored = graph.tensors[node.inputs[0]].constant
            assert stored is not None
            expected = weights[stored.shape[0], stored.shape[3], 1, 1]
            assert np.array_equal(stored, expected)
            assert np.array_equal(plain.get_tensor(node.outputs[0]), expected)


def test_one_delegate_takes_all_of_it(tmp_path: Path) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(content())
    placement = LiteRTSession(file).placement()
    assert (placement.delegates, placement.undelegated) == (1, ())


def test_a_row_without_any_weight_is_stored_and_a_layer_is_left(tmp_path: Path) -> None:
    model = read(dense_content(0.8))
    for index, values in float_constants(model):
        if values.shape == (20, 1, 1, WIDE):
            set_constant(model, model.subgraphs[0].tensors[index], np.zeros_like(values))
        elif values.shape == (WIDE, 1, 1, 16):
            emptied = values.copy()
            emptied[5] = 0.0
            set_constant(model, model.subgraphs[0].tensors[index], emptied)
    before = written(model)
    after = store_sparse(before)
    assert densified(after, tmp_path) == 1
    assert np.array_equal(answer(after), answer(before))


def test_with_fewer_zeros_the_file_stays_as_it_is() -> None:
    assert store_sparse(dense_content(0.6)) is dense_content(0.6)


def test_a_file_without_float_weights_stays_as_it_is() -> None:
    assert store_sparse(int8_content()) is int8_content()


def test_a_second_time_changes_nothing() -> None:
    assert store_sparse(content()) == content()


def test_flipped_bytes_never_crash_the_reader(tmp_path: Path) -> None:
    whole, random = content(), np.random.default_rng(0)
    for _ in range(300):
        flipped = bytearray(whole)
        for place in random.integers(8, len(whole), 6):
            flipped[place] ^= int(random.integers(1, 256))
        with contextlib.suppress(UsageError):
            graph_of(bytes(flipped), tmp_path)
