"""Students of texts in every format and precision: integer layers, a stored table of words, the answers of torch."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from onnx import numpy_helper
from torch import nn

from edgekd.compress.program import StoredEmbedding
from edgekd.compress.quantizers import kept
from edgekd.export.tflite_pack import pack
from edgekd.models.evaluate import predict
from edgekd.readers import read_graph
from edgekd.readers.graph import FileGraph, FileNode, FileTensor
from edgekd.runtimes import open_session
from edgekd.target import Format, Precision
from edgekd.verify.compare import compare_outputs
from edgekd.verify.coverage import asked_transposes, stray_transposes
from edgekd.verify.readback import read_back
from tests.export.small_text import ARCHITECTURES, CLASSES, VOCABULARY, ids, text_file, text_quantized, text_student

FORMATS: tuple[Format, ...] = ("tflite", "onnx", "openvino")
FAMILIES = tuple(ARCHITECTURES)
FLOATS: tuple[Precision, ...] = ("int8-weights", "float16", "float32")
LAYERS = ("FULLY_CONNECTED", "CONV_2D", "MatMul", "Gemm", "Conv", "Convolution")
BETWEEN = ("DEQUANTIZE", "DequantizeLinear", "Convert", "Multiply", "Reshape", "Transpose")
"""What may stand between a stored weight and the layer that it belongs to."""
DYNAMIC = 0.05
"""ONNX Runtime quantizes the inputs of matrix products whose weights alone are int8 when it runs."""


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=FORMATS)
def name(request: pytest.FixtureRequest) -> Format:
    return request.param


def answers(file: Path, output: str = "logits") -> np.ndarray:
    session = open_session(file)
    found = session.decode(session.run(session.encode(ids().numpy())))
    assert found.shape == (len(ids()), CLASSES), output
    return found


def layers_of(family: str) -> list[nn.Module]:
    return [one for one in text_student(family).modules() if isinstance(one, nn.Linear | nn.Conv2d)]


def stored_weights(graph: FileGraph) -> Iterator[tuple[FileNode, FileTensor]]:
    """Every layer of a file with its weight as it is stored; products of two activations have none."""
    makers = {index: node for node in graph.nodes for index in node.outputs}
    for node in graph.nodes:
        if node.op not in LAYERS:
            continue
        for index in node.inputs[:2]:
            while index in makers and makers[index].op in BETWEEN:
                index = makers[index].inputs[0]
            if graph.tensors[index].constant is not None:
                yield node, graph.tensors[index]


def test_every_learned_scale_is_found(family: str, name: Format, tmp_path: Path) -> None:
    table = text_quantized(family).table
    result = read_back(table, read_graph(text_file(tmp_path, family, name, "int8")))
    assert result.problems == ()
    assert result.exact == result.learned == len(table)


def test_it_answers_like_the_trained_model(family: str, name: Format, tmp_path: Path) -> None:
    program = text_quantized(family)
    found = answers(text_file(tmp_path, family, name, "int8"))
    result = compare_outputs(predict(program.model, ids()), found, program.output_scale, "logits")
    assert result.agreement >= 0.99
    assert result.max_lsb is not None
    assert result.max_lsb <= 8
    assert len(np.unique(found)) > 50


def test_every_layer_is_an_integer_one(family: str, name: Format, tmp_path: Path) -> None:
    graph = read_graph(text_file(tmp_path, family, name, "int8"))
    weights = [tensor for _, tensor in stored_weights(graph)]
    assert [tensor.dtype for tensor in weights] == ["int8"] * len(layers_of(family))
    assert sorted(tensor.constant.size for tensor in weights) == sorted(one.weight.numel() for one in layers_of(family))


def test_all_of_it_is_in_the_runtimes_fast_path(family: str, name: Format, tmp_path: Path) -> None:
    placement = open_session(text_file(tmp_path, family, name, "int8")).placement()
    assert placement.undelegated == ()
    assert placement.total > 5


@pytest.mark.parametrize(
    ("precision", "lookups"),
    [
        ("int8", {"GATHER"}),
        ("int8-weights", {"RESHAPE", "GATHER"}),
        ("float16", {"RESHAPE", "GATHER", "DEQUANTIZE"}),
        ("float32", {"RESHAPE", "EMBEDDING_LOOKUP"}),
    ],
)
def test_only_the_lookup_of_words_stays_outside_the_one_delegate(
    precision: Precision, lookups: set[str], family: str, tmp_path: Path
) -> None:
    placement = open_session(text_file(tmp_path, family, "tflite", precision)).placement()
    assert placement.undelegated == ()
    assert placement.delegates == 1
    assert {place.partition(":")[2] for place in placement.lookups} <= lookups
    assert {place.partition(":")[2] for place in placement.lookups} & {"GATHER", "EMBEDDING_LOOKUP"}


def tables(graph: FileGraph, family: str) -> list[FileTensor]:
    shape = text_student(family).tokens.weight.shape
    assert shape[0] == VOCABULARY
    return [tensor for tensor in graph.tensors if tensor.constant is not None and tensor.shape == shape]


@pytest.mark.parametrize("precision", ["int8", "int8-weights"])
def test_the_table_of_words_is_stored_as_the_programs_int8_rows(
    precision: Precision, family: str, name: Format, tmp_path: Path
) -> None:
    program, graph = text_quantized(family), read_graph(text_file(tmp_path, family, name, precision))
    (table,) = tables(graph, family)
    (lookup,) = (node for node in graph.nodes if table.index in node.inputs)
    rows = next(one for one in program.frozen(stored=True).modules() if isinstance(one, StoredEmbedding))
    entry = next(entry for entry in program.table if entry.tensor == "tokens.weight")
    assert table.dtype == "int8"
    assert graph.tensors[lookup.outputs[0]].scale == (np.float32(entry.scale[0]),)
    np.testing.assert_array_equal(table.constant, rows.form.stored.numpy())


def test_the_app_hands_over_the_ids_themselves(family: str, name: Format, tmp_path: Path) -> None:
    for precision in ("int8", *FLOATS):
        session = open_session(text_file(tmp_path, family, name, precision))
        assert (session.inputs[0].dtype, session.inputs[0].scale) == ("int32", 0)
        np.testing.assert_array_equal(session.encode(ids(5).numpy()), ids(5).numpy())


def test_no_transpose_is_there_that_the_model_does_not_ask_for(family: str, name: Format, tmp_path: Path) -> None:
    program = text_quantized(family)
    asked = asked_transposes(program.frozen(stored=False), program.example)
    for precision in ("int8", *FLOATS):
        assert stray_transposes(read_graph(text_file(tmp_path, family, name, precision)), asked) == []


def test_int8_weights_are_the_learned_ones(family: str, name: Format, tmp_path: Path) -> None:
    graph, table = read_graph(text_file(tmp_path, family, name, "int8-weights")), text_quantized(family).table
    result = read_back(kept(table, "int8-weights"), graph)
    assert result.problems == ()
    assert result.exact == result.learned == len(layers_of(family)) + 1
    assert {tensor.dtype for _, tensor in stored_weights(graph)} == {"int8"}


@pytest.mark.parametrize(
    ("precision", "source", "off"),
    [
        ("int8-weights", lambda family: text_quantized(family).weights_only(), 1e-4),
        ("float16", text_student, 0.01),
        ("float32", text_student, 1e-4),
    ],
)
def test_a_float_file_answers_like_torch(
    precision: Precision, source: Callable[[str], nn.Module], off: float, family: str, name: Format, tmp_path: Path
) -> None:
    allowed = DYNAMIC if (name, precision) == ("onnx", "int8-weights") else off
    found = answers(text_file(tmp_path, family, name, precision))
    np.testing.assert_allclose(found, predict(source(family), ids()), atol=allowed)


def test_large_constants_of_a_half_file_are_halves(family: str, name: Format, tmp_path: Path) -> None:
    graph = read_graph(text_file(tmp_path, family, name, "float16"))
    constants = [tensor for tensor in graph.tensors if tensor.constant is not None]
    halves = [tensor.constant for tensor in constants if tensor.dtype == "float16"]
    assert [one.name for one in constants if one.dtype == "float32" and one.constant.size >= 64] == []
    assert sum(values.size for values in halves) >= sum(one.weight.numel() for one in layers_of(family))
    table = text_student(family).tokens.weight.detach().numpy().astype(np.float16)
    assert any(np.array_equal(values, table) for values in halves)


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_probabilities_are_the_softmax_of_the_logits(precision: Precision, name: Format, tmp_path: Path) -> None:
    found = {}
    for output in ("logits", "probabilities"):
        folder = tmp_path / output
        folder.mkdir()
        found[output] = answers(text_file(folder, "text_cnn", name, precision, output), output)
    powers = np.exp(found["logits"])
    expected = powers / powers.sum(1, keepdims=True)
    np.testing.assert_allclose(found["probabilities"], expected, atol=1.1 / 256 if precision == "int8" else 1e-5)
    assert np.ptp(found["probabilities"]) > 0.5


def test_probabilities_of_an_int8_file_are_those_of_the_trained_model(name: Format, tmp_path: Path) -> None:
    program = text_quantized("text_cnn")
    file = text_file(tmp_path, "text_cnn", name, "int8", "probabilities")
    assert read_back(program.table, read_graph(file)).problems == ()
    found = answers(file, "probabilities")
    result = compare_outputs(predict(program.model, ids()), found, program.output_scale, "probabilities")
    assert result.agreement >= 0.99
    assert result.max_lsb is not None
    assert result.max_lsb <= 8


def one_ulp_up(values: np.ndarray) -> np.ndarray:
    return np.nextafter(values, np.float32(np.inf), dtype=np.float32)


def test_a_changed_scale_of_the_table_in_onnx_is_caught_by_name(family: str, tmp_path: Path) -> None:
    file = text_file(tmp_path, family, "onnx", "int8")
    model = onnx.load(str(file))
    gather = next(node for node in model.graph.node if node.op_type == "Gather")
    scale = next(node.input[1] for node in model.graph.node if node.input[0] == gather.output[0])
    tensor = next(one for one in model.graph.initializer if one.name == scale)
    tensor.CopyFrom(numpy_helper.from_array(one_ulp_up(numpy_helper.to_array(tensor)), scale))
    onnx.save(model, str(file))
    problems = read_back(text_quantized(family).table, read_graph(file)).problems
    assert any("'tokens.weight'" in problem for problem in problems)


def test_a_changed_scale_of_the_table_in_tflite_is_caught_by_name(family: str, tmp_path: Path) -> None:
    file = text_file(tmp_path, family, "tflite", "int8")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(file.read_bytes(), 0))
    (table,) = tables(read_graph(file), family)
    quantization = model.subgraphs[0].tensors[table.index].quantization
    quantization.scale = one_ulp_up(np.asarray(quantization.scale, dtype=np.float32))
    file.write_bytes(pack(model))
    problems = read_back(text_quantized(family).table, read_graph(file)).problems
    assert any("'tokens.weight'" in problem for problem in problems)


def test_a_table_without_its_scale_in_openvino_is_caught(family: str, tmp_path: Path) -> None:
    file = text_file(tmp_path, family, "openvino", "int8")
    entry = next(entry for entry in text_quantized(family).table if entry.tensor == "tokens.weight")
    binary = file.with_suffix(".bin")
    scale = np.float32(entry.scale[0])
    assert binary.read_bytes().count(scale.tobytes()) == 1
    binary.write_bytes(binary.read_bytes().replace(scale.tobytes(), one_ulp_up(scale).tobytes()))
    problems = read_back(text_quantized(family).table, read_graph(file)).problems
    assert any("'tokens.weight'" in problem for problem in problems)


def test_other_sentences_have_other_answers(family: str, name: Format, tmp_path: Path) -> None:
    session = open_session(text_file(tmp_path, family, name, "int8"))
    padded = torch.zeros(1, ids().shape[1], dtype=torch.int32).numpy()
    last = np.full_like(padded, VOCABULARY - 1)
    assert not np.array_equal(session.run(padded), session.run(last))
