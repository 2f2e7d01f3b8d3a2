import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.tools.reduced_build_config_parser import parse_config

from edgekd.errors import ExportError
from edgekd.export import ort
from edgekd.export.formats import export_float
from edgekd.export.ort import OPERATORS_FILE, convert
from edgekd.export.ort_pack import pack
from edgekd.models.evaluate import predict
from edgekd.readers import read_graph
from edgekd.readers.graph import FileGraph, layout_changes
from edgekd.runtimes import open_session
from edgekd.runtimes.onnxruntime import COMPUTE
from edgekd.verify import parity
from tests.export.small import FEATURES, SHAPE, quantized, samples, student
from tests.export.small_ort import FAMILIES, converted, onnx_content, ort_content, signed_onnx_content


def pixels(count: int = 50) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


@pytest.fixture
def unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file as the runtime wrote it."""
    monkeypatch.setattr("edgekd.export.ort_pack.pack", lambda content: content)
    return converted(onnx_content(), tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_answers_bit_for_bit_as_the_onnx_file(family: str, tmp_path: Path) -> None:
    file = converted(onnx_content(family), tmp_path)
    session, source = open_session(file), open_session(file.with_suffix(".onnx"))
    assert (session.inputs, session.outputs) == (source.inputs, source.outputs)
    found = session.run(pixels())
    np.testing.assert_array_equal(found, source.run(pixels()))
    assert len(np.unique(found)) > 50


@pytest.mark.parametrize("family", FAMILIES)
def test_it_answers_like_the_trained_model(family: str, tmp_path: Path) -> None:
    result = parity(converted(onnx_content(family), tmp_path), quantized(family), samples(200))
    assert result.agreement >= 0.99
    assert result.max_lsb is not None
    assert result.max_lsb <= 4


@pytest.mark.parametrize("content", [onnx_content, signed_onnx_content], ids=["uint8", "int8"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_file_holds_integer_kernels_and_no_layout_changes(family: str, content: object, tmp_path: Path) -> None:
    file = converted(content(family), tmp_path)
    names = [node.op for node in read_graph(file).nodes]
    weights = sum(entry.kind == "weight" for entry in quantized(family).table)
    assert (names.count("QLinearConv"), names.count("QGemm")) == (weights - 1, 1)
    assert not set(names) & set(COMPUTE)
    assert layout_changes(read_graph(file)) == []
    assert open_session(file).placement().undelegated == ()


def test_a_float_model_is_the_torch_model(tmp_path: Path) -> None:
    source = export_float(student(), quantized().example, "onnx", "float32", tmp_path, FEATURES)
    session = open_session(converted(source.read_bytes(), tmp_path))
    inputs = samples(10)
    np.testing.assert_allclose(session.run(session.encode(inputs.numpy())), predict(student(), inputs), atol=1e-4)


def test_converting_again_in_another_process_gives_the_same_bytes(tmp_path: Path) -> None:
    file = converted(onnx_content(), tmp_path)
    again = tmp_path / "again"
    again.mkdir()
    program = "import sys, pathlib; from edgekd.export.ort import convert; convert(*map(pathlib.Path, sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", program, tmp_path / "model.onnx", again / "model.ort"], check=True)
    for name in ("model.ort", OPERATORS_FILE):
        assert (again / name).read_bytes() == (tmp_path / name).read_bytes()
    assert file.read_bytes() == ort_content()


def test_metadata_is_kept(tmp_path: Path) -> None:
    model = onnx.load_from_string(onnx_content())
    properties = {"edgekd.name": "größer", "edgekd.labels": '["a","b"]'}
    helper.set_model_props(model, properties)
    file = converted(model.SerializeToString(), tmp_path)
    assert onnxruntime.InferenceSession(str(file)).get_modelmeta().custom_metadata_map == properties


def test_the_operators_are_those_of_the_file_and_of_its_other_layout(tmp_path: Path) -> None:
    file = converted(onnx_content("resnet"), tmp_path)
    operators, _ = parse_config(str(tmp_path / OPERATORS_FILE), enable_type_reduction=True)
    listed = {name for domain in operators.values() for names in domain.values() for name in names}
    assert {node.op for node in read_graph(file).nodes} <= listed
    assert {"Transpose", "QLinearConv"} <= listed
    assert "QLinearConv" in operators["com.microsoft"][1]
    assert 'DequantizeLinear{"inputs": {"0": ["uint8_t"]}}' in (tmp_path / OPERATORS_FILE).read_text()
    assert "/" not in (tmp_path / OPERATORS_FILE).read_text()


def two_in_a_row() -> bytes:
    """A model that rounds to one grid and then to a coarser one."""

    def constant(name: str, value: float, dtype: type) -> TensorProto:
        return numpy_helper.from_array(np.array(value, dtype=dtype), name)

    nodes = []
    for position, (source, sink) in enumerate([("x", "a"), ("a", "y")]):
        numbers = [f"scale{position}", "zero"]
        nodes.append(helper.make_node("QuantizeLinear", [source, *numbers], [f"q{position}"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"q{position}", *numbers], [sink]))
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4])] for name in "xy"]
    constants = [
        constant("scale0", 0.1, np.float32),
        constant("scale1", 0.13, np.float32),
        constant("zero", 128, np.uint8),
    ]
    graph = helper.make_graph(nodes, "graph", *ends, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def test_two_quantizers_in_a_row_keep_their_scales(tmp_path: Path) -> None:
    graph = read_graph(converted(two_in_a_row(), tmp_path))
    scales = [tensor.scale[0] for tensor in graph.tensors if tensor.scale]
    assert scales == [np.float32(0.1), np.float32(0.13)]


def comparable(graph: FileGraph) -> object:
    tensors = [
        (tensor.name, tensor.shape, tensor.dtype, tensor.scale, tensor.zero_point, tensor.axis,
         None if tensor.constant is None else tensor.constant.tobytes())
        for tensor in graph.tensors
    ]  # fmt: skip
    return tensors, graph.nodes, graph.inputs, graph.outputs


def test_packing_changes_no_tensor_and_no_node(unpacked: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed.ort"
    packed.write_bytes(pack(unpacked.read_bytes()))
    assert comparable(read_graph(packed)) == comparable(read_graph(unpacked))
    np.testing.assert_array_equal(open_session(packed).run(pixels()), open_session(unpacked).run(pixels()))


def test_packing_makes_the_file_smaller_once(unpacked: Path) -> None:
    content = pack(unpacked.read_bytes())
    assert len(content) < len(unpacked.read_bytes()) / 2
    assert pack(content) == content == ort_content()


def test_a_file_with_more_in_it_than_is_known_is_not_packed(tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.add_session_config_entry("optimization.minimal_build_optimizations", "save")
    source = export_float(student(), quantized().example, "onnx", "float32", tmp_path, FEATURES)
    onnxruntime.InferenceSession(str(source), options)
    with pytest.raises(ValueError, match="field 8 of a Graph"):
        pack((tmp_path / "model.ort").read_bytes())


def unknown_operation() -> bytes:
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])] for name in "xy"]
    graph = helper.make_graph([helper.make_node("Frobnicate", ["x"], ["y"], domain="nowhere")], "graph", *ends)
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("nowhere", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()


@pytest.mark.parametrize("content", [b"", b"not a model", unknown_operation()], ids=["empty", "text", "unknown"])
def test_what_cannot_be_converted_is_refused_in_one_line_and_leaves_nothing(content: bytes, tmp_path: Path) -> None:
    source, out = tmp_path / "model.onnx", tmp_path / "out"
    source.write_bytes(content)
    out.mkdir()
    with pytest.raises(ExportError, match="ORT export") as caught:
        convert(source, out / "model.ort")
    assert "\n" not in str(caught.value)
    assert list(out.iterdir()) == []


def test_a_model_without_its_operators_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.onnx").write_bytes(onnx_content())
    monkeypatch.setattr(ort, "OPERATORS_FILE", "no folder/operators.config")
    with pytest.raises(ExportError):
        convert(tmp_path / "model.onnx", tmp_path / "model.ort")
    assert [part.name for part in tmp_path.iterdir()] == ["model.onnx"]
