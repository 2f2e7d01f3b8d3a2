from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from edgekd.errors import EdgekdError, UsageError
from edgekd.readers.tflite import read_graph
from tests.export.small import bare_content, int8_content


def interpreter(file: Path) -> Interpreter:
    """The runtime's own view, without a delegate that replaces nodes."""
    loaded = Interpreter(str(file), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    loaded.allocate_tensors()
    return loaded


@pytest.mark.parametrize("name", ["int8_file", "float_file"])
def test_tensors_are_those_of_the_runtime(request: pytest.FixtureRequest, name: str) -> None:
    file: Path = request.getfixturevalue(name)
    graph, loaded = read_graph(file), interpreter(file)
    details = {detail["index"]: detail for detail in loaded.get_tensor_details()}
    assert len(graph.tensors) > 10
    for tensor in graph.tensors:
        detail = details[tensor.index]
        assert tensor.shape == tuple(detail["shape"])
        assert np.dtype(tensor.dtype) == detail["dtype"]
        assert tensor.name == detail["name"]
        numbers = detail["quantization_parameters"]
        assert np.array(tensor.scale, dtype=np.float32).tobytes() == numbers["scales"].tobytes()
        assert list(tensor.zero_point) == numbers["zero_points"].tolist()
        if len(tensor.scale) > 1:
            assert tensor.axis == numbers["quantized_dimension"]
            assert tensor.shape[tensor.axis] == len(tensor.scale)


@pytest.mark.parametrize("name", ["int8_file", "float_file"])
def test_constants_are_those_of_the_runtime(request: pytest.FixtureRequest, name: str) -> None:
    file: Path = request.getfixturevalue(name)
    graph, loaded = read_graph(file), interpreter(file)
    constants = [tensor for tensor in graph.tensors if tensor.constant is not None]
    assert len(constants) > 5
    for tensor in constants:
        np.testing.assert_array_equal(tensor.constant, loaded.get_tensor(tensor.index))


def test_nodes_inputs_and_outputs_are_those_of_the_runtime(int8_file: Path) -> None:
    graph, loaded = read_graph(int8_file), interpreter(int8_file)
    found = [(node["op_name"], tuple(node["inputs"]), tuple(node["outputs"])) for node in loaded._get_ops_details()]
    assert [(node.op, node.inputs, node.outputs) for node in graph.nodes] == found
    assert graph.inputs == tuple(detail["index"] for detail in loaded.get_input_details())
    assert graph.outputs == tuple(detail["index"] for detail in loaded.get_output_details())


def read(content: bytes, file: Path) -> None:
    """Anything but an EdgekdError goes through to the test."""
    file.write_bytes(content)
    read_graph(file)


@pytest.mark.parametrize("length", [0, 3, 7, 8, 12, 40, 200, 1000, 2500, -1])
def test_a_truncated_file_is_refused_by_name(damaged: Path, length: int) -> None:
    with pytest.raises(UsageError) as caught:
        read(bare_content()[:length], damaged)
    assert str(damaged) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_cut_anywhere_never_crashes(damaged: Path) -> None:
    refused = 0
    for length in range(0, len(int8_content()), 37):
        try:
            read(int8_content()[:length], damaged)
        except EdgekdError:
            refused += 1
    assert refused > 0


def test_flipped_bytes_never_crash(damaged: Path) -> None:
    rng, refused = np.random.default_rng(0), 0
    for _ in range(400):
        content = bytearray(int8_content())
        for place in rng.integers(len(content), size=rng.integers(1, 6)):
            content[place] = rng.integers(256)
        try:
            read(bytes(content), damaged)
        except EdgekdError:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x1c\0\0\0TFL3", b"\x1c\0\0\0TFL3" + b"\xff" * 500])
def test_what_is_not_a_model_is_refused(damaged: Path, content: bytes) -> None:
    with pytest.raises(UsageError, match="damaged"):
        read(content, damaged)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.tflite"):
        read_graph(tmp_path / "gone.tflite")
