import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.compress.quantizers import Quantizer
from edgekd.errors import EdgekdError, UsageError
from edgekd.readers import onnx as onnx_reader
from edgekd.readers.ort import read_graph
from edgekd.verify.readback import read_back
from tests.export.small import quantized
from tests.export.small_ort import FAMILIES, converted, onnx_content, ort_content, signed_onnx_content


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    return tmp_path / "damaged.ort"


@pytest.mark.parametrize("content", [onnx_content, signed_onnx_content], ids=["uint8", "int8"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_learned_scale_is_found(family: str, content: Callable[[str], bytes], tmp_path: Path) -> None:
    result = read_back(quantized(family).table, read_graph(converted(content(family), tmp_path)))
    assert result.problems == ()
    assert result.exact == result.learned == len(quantized(family).table)


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_are_those_of_the_onnx_file(family: str, tmp_path: Path) -> None:
    file = converted(onnx_content(family), tmp_path)
    source = {tensor.name: tensor for tensor in onnx_reader.read_graph(file.with_suffix(".onnx")).tensors}
    compared = 0
    for tensor in read_graph(file).tensors:
        if tensor.name in source and source[tensor.name].scale:
            other = source[tensor.name]
            assert (tensor.scale, tensor.zero_point, tensor.axis) == (other.scale, other.zero_point, other.axis)
            assert (tensor.shape, tensor.dtype) == (other.shape, other.dtype)
            np.testing.assert_array_equal(tensor.constant, other.constant)
            compared += 1
    assert compared == len(quantized(family).table)


def test_inputs_outputs_and_their_types_are_those_of_the_runtime(tmp_path: Path) -> None:
    file = converted(onnx_content(), tmp_path)
    graph, session = read_graph(file), onnxruntime.InferenceSession(str(file))
    (source,), (sink,) = session.get_inputs(), session.get_outputs()
    for index, port in ((graph.inputs[0], source), (graph.outputs[0], sink)):
        assert graph.tensors[index].name == port.name
        assert graph.tensors[index].shape == tuple(port.shape)
    assert (source.type, graph.tensors[graph.inputs[0]].dtype) == ("tensor(uint8)", "uint8")
    assert (sink.type, graph.tensors[graph.outputs[0]].dtype) == ("tensor(float)", "float32")


@pytest.mark.parametrize("family", FAMILIES)
def test_nodes_come_behind_those_that_make_their_inputs(family: str, tmp_path: Path) -> None:
    graph = read_graph(converted(onnx_content(family), tmp_path))
    made = {*graph.inputs, *(tensor.index for tensor in graph.tensors if tensor.constant is not None)}
    for node in graph.nodes:
        assert made.issuperset(node.inputs)
        made.update(node.outputs)
    assert made.issuperset(graph.outputs)


def test_a_bias_has_no_scale_of_its_own(tmp_path: Path) -> None:
    graph = read_graph(converted(onnx_content(), tmp_path))
    biases = [tensor for tensor in graph.tensors if tensor.dtype == "int32"]
    assert len(biases) == 6
    assert all(tensor.constant is not None and tensor.scale == () for tensor in biases)


STEP, ZERO = 0.5, 7
"""Scale and uint8 zero point of what an operation makes."""


def constant(name: str, value: object, dtype: type) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype=dtype), name)


def operation(
    op: str, shapes: list[list[int]], weight: tuple[list[int], int] | None = None, quantized_output: bool = True,
    first: list[str] | None = None, **attributes: object,
) -> bytes:  # fmt: skip
    """One operation between quantizers: input k has the scale (k + 1) / 100 and the uint8 zero point 100 + k; a weight
    of a shape and axis has the scales 1, 2, … thousandths."""
    nodes, operands, numbers = [], list(first or []), [constant("zero_w", 0, np.int8)]
    inputs = [helper.make_tensor_value_info(name, TensorProto.BOOL, shapes[0]) for name in operands]

    def rounded(source: str, sink: str, scale: float, zero: int) -> None:
        names = [f"scale_{sink}", f"zero_{sink}"]
        numbers.extend([constant(names[0], scale, np.float32), constant(names[1], zero, np.uint8)])
        nodes.append(helper.make_node("QuantizeLinear", [source, *names], [f"q_{sink}"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"q_{sink}", *names], [sink]))

    for k, shape in enumerate(shapes):
        inputs.append(helper.make_tensor_value_info(f"x{k}", TensorProto.FLOAT, shape))
        rounded(f"x{k}", f"in{k}", (k + 1) / 100, 100 + k)
        operands.append(f"in{k}")
    if weight is not None:
        shape, axis = weight
        values = np.random.default_rng(0).integers(-127, 128, shape)
        numbers += [
            constant("w", values, np.int8),
            constant("scale_w", np.arange(1, shape[axis] + 1) / 1000, np.float32),
        ]
        numbers.append(constant("zeros_w", np.zeros(shape[axis]), np.int8))
        nodes.append(helper.make_node("DequantizeLinear", ["w", "scale_w", "zeros_w"], ["weight"], axis=axis))
        operands.append("weight")
    nodes.append(helper.make_node(op, operands, ["real" if quantized_output else "out"], **attributes))
    if quantized_output:
        rounded("real", "out", STEP, ZERO)
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "graph", inputs, [output], numbers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


IMAGE = [1, 4, 6, 6]


@pytest.mark.parametrize(
    ("kernel", "content", "axis"),
    [
        ("QLinearAdd", operation("Add", [IMAGE, IMAGE]), None),
        ("QLinearMul", operation("Mul", [IMAGE, IMAGE]), None),
        ("QLinearConcat", operation("Concat", [IMAGE, IMAGE, IMAGE], axis=1), None),
        ("QLinearWhere", operation("Where", [IMAGE, IMAGE], first=["condition"]), None),
        ("QLinearSigmoid", operation("Sigmoid", [IMAGE]), None),
        ("QLinearLeakyRelu", operation("LeakyRelu", [IMAGE]), None),
        ("QLinearSoftmax", operation("Softmax", [[1, 8]]), None),
        ("QLinearAveragePool", operation("AveragePool", [IMAGE], kernel_shape=[2, 2]), None),
        ("QLinearGlobalAveragePool", operation("GlobalAveragePool", [IMAGE]), None),
        ("MaxPool", operation("MaxPool", [IMAGE], kernel_shape=[2, 2]), None),
        ("QLinearMatMul", operation("MatMul", [[1, 3, 8], [1, 8, 3]]), None),
        ("QLinearMatMul", operation("MatMul", [[1, 8]], ([8, 5], 1)), 1),
        ("QLinearConv", operation("Conv", [IMAGE], ([8, 4, 3, 3], 0)), 0),
        ("QGemm", operation("Gemm", [[1, 8]], ([5, 8], 0), transB=1), 0),
        ("QGemm", operation("Gemm", [[1, 8]], ([8, 5], 1)), 1),
        ("QGemm", operation("Gemm", [[1, 8]], ([5, 8], 0), quantized_output=False, transB=1), 0),
        ("MatMulIntegerToFloat", operation("MatMul", [[1, 8]], ([8, 5], 1), quantized_output=False), 1),
        ("ConvTranspose", operation("ConvTranspose", [IMAGE], ([4, 8, 3, 3], 1)), 1),
    ],
)  # fmt: skip
def test_an_operation_says_the_scales_of_its_tensors(
    kernel: str, content: bytes, axis: int | None, tmp_path: Path
) -> None:
    graph = read_graph(converted(content, tmp_path))
    assert kernel in [node.op for node in graph.nodes]
    tensors = {tensor.name: tensor for tensor in graph.tensors if tensor.scale}
    made = {name for node in onnx.load_from_string(content).graph.node for name in node.output}
    expected = {
        f"q_in{k}": ((np.float32((k + 1) / 100),), (100 + k - 128,), None) for k in range(3) if f"q_in{k}" in made
    }
    if "q_out" in made:
        expected["q_out"] = ((np.float32(STEP),), (ZERO - 128,), None)
    if axis is not None:
        channels = tensors["w"].shape[axis]
        expected["w"] = (tuple((np.arange(1, channels + 1) / 1000).astype(np.float32)), (0,) * channels, axis)
    assert {name: (one.scale, one.zero_point, one.axis) for name, one in tensors.items()} == expected
    weighing = [node for node in graph.nodes if "w" in [graph.tensors[index].name for index in node.inputs]]
    assert [node.weight_axis for node in weighing] == ([] if axis is None else [axis])
    numbers = [tensor.name for tensor in graph.tensors if tensor.name.startswith(("scale", "zero"))]
    assert numbers == []


def one_ulp_up(value: float) -> float:
    return float(np.nextafter(np.float32(value), np.float32(np.inf)))


def planted(content: bytes, entry: Quantizer) -> Iterator[bytes]:
    """The file with the last of an entry's scales changed by one unit in the last place, in each place it stands."""
    scales = struct.pack(f"<{len(entry.scale)}f", *entry.scale)
    place = content.find(scales)
    while place >= 0:
        changed = bytearray(content)
        struct.pack_into("<f", changed, place + len(scales) - 4, one_ulp_up(entry.scale[-1]))
        yield bytes(changed)
        place = content.find(scales, place + 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_changed_scale_is_caught_by_name(family: str, damaged: Path) -> None:
    table, content = quantized(family).table, ort_content(family)
    for entry in table:
        files = list(planted(content, entry))
        assert files, entry.tensor
        for changed in files:
            damaged.write_bytes(changed)
            found = read_back(table, read_graph(damaged)).problems
            assert any(f"'{entry.tensor}'" in problem for problem in found), (entry.tensor, found)


def test_one_changed_zero_point_is_caught(damaged: Path, tmp_path: Path) -> None:
    model = onnx.load_from_string(onnx_content())
    tensor = next(one for one in model.graph.initializer if one.data_type == TensorProto.UINT8)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.uint8(1), tensor.name))
    assert read_back(quantized().table, read_graph(converted(model.SerializeToString(), tmp_path))).problems


@pytest.mark.parametrize(
    ("place", "value", "has"),
    [
        (1, np.float32(0.25), "a scale of 0.25 and a zero point of -121"),
        (2, np.uint8(9), "a scale of 0.5 and a zero point of -119"),
    ],
)
def test_a_tensor_taken_with_other_numbers_than_it_is_made_with_is_refused_by_name(
    place: int, value: np.generic, has: str, tmp_path: Path
) -> None:
    model = onnx.load_from_string(operation("Softmax", [[1, 8]]))
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), "other"))
    last = next(node for node in model.graph.node if node.output[0] == "out")
    last.input[place] = "other"
    with pytest.raises(UsageError, match=rf"'q_out' has a scale of 0.5 and a zero point of -121 in one place, {has}"):
        read_graph(converted(model.SerializeToString(), tmp_path))


@pytest.mark.parametrize("length", [0, 3, 7, 8, 12, 40, 200, 2000, 5000, -300, -4])
def test_a_truncated_file_is_refused_by_name(damaged: Path, length: int) -> None:
    damaged.write_bytes(ort_content()[:length])
    with pytest.raises(UsageError) as caught:
        read_graph(damaged)
    assert str(damaged) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_cut_anywhere_is_refused(damaged: Path) -> None:
    content = ort_content()
    for length in range(0, len(content) - 3, 37):
        damaged.write_bytes(content[:length])
        with pytest.raises(UsageError):
            read_graph(damaged)


def test_flipped_bytes_never_crash(damaged: Path) -> None:
    rng, refused = np.random.default_rng(0), 0
    for _ in range(200):
        content = bytearray(ort_content())
        for place in rng.integers(len(content), size=rng.integers(1, 6)):
            content[place] = rng.integers(256)
        damaged.write_bytes(bytes(content))
        try:
            read_back(quantized().table, read_graph(damaged))
        except EdgekdError:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize("mark", [b"", b"TFL3", b"\0\0\0\0"])
def test_another_format_under_the_suffix_is_refused(damaged: Path, mark: bytes) -> None:
    damaged.write_bytes(b"\x1c\0\0\0" + mark + bytes(100) if mark else onnx_content())
    with pytest.raises(UsageError, match=r"damaged\.ort: not an ORT model"):
        read_graph(damaged)


@pytest.mark.parametrize(
    "content", [b"\x1c\0\0\0ORTM", b"\x1c\0\0\0ORTM" + b"\xff" * 500, b"\x1c\0\0\0ORTM" + bytes(500)]
)
def test_nothing_behind_the_mark_is_refused(damaged: Path, content: bytes) -> None:
    damaged.write_bytes(content)
    with pytest.raises(UsageError, match="damaged ORT model"):
        read_graph(damaged)


@pytest.mark.parametrize("first", ["edgekd.readers.ort", "onnxruntime.tools.ort_format_model"])
def test_the_schema_is_found_with_and_without_the_runtime_s_tools(first: str, tmp_path: Path) -> None:
    (tmp_path / "model.ort").write_bytes(ort_content())
    program = """if True:
        import importlib, sys
        from pathlib import Path
        importlib.import_module(sys.argv[1])
        from edgekd.readers.ort import read_graph
        print(len(read_graph(Path(sys.argv[2])).nodes), "torch" in sys.modules)
    """
    command = [sys.executable, "-c", program, first, str(tmp_path / "model.ort")]
    count, torch = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert int(count) == len(read_graph(tmp_path / "model.ort").nodes)
    if first == "edgekd.readers.ort":
        assert torch == "False"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.ort: cannot be read"):
        read_graph(tmp_path / "gone.ort")
