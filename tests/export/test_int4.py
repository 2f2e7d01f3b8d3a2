"""Weights of 4 bits: two a byte where a format's runtime takes them so, the same numbers in 8 bits elsewhere."""

import functools
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from torch import nn

from edgekd.compress import QuantizedProgram, quantize
from edgekd.compress.program import StoredWeight
from edgekd.compress.quantizers import kept
from edgekd.errors import UsageError
from edgekd.export.formats import MODEL_FILE, export, export_program
from edgekd.export.int4 import fits, packed
from edgekd.export.tflite_graph import read, set_constant
from edgekd.export.tflite_pack import pack
from edgekd.readers import read_graph
from edgekd.readers.graph import FileGraph, FileTensor, stored_weights, unpacked
from edgekd.runtimes import open_session
from edgekd.target import Format, Precision, load_target
from edgekd.verify.readback import read_back
from tests.compress.students import noise
from tests.export import small
from tests.export.small import UNLABELLED
from tests.export.small_text import CARDS, ids, text_student

SHAPE = (3, 8, 8)
CONVOLUTION, DEPTHWISE, ODD, STRIDED, LINEAR = 3 * 9 * 20, 20 * 9, 20 * 15, 64 * 32, 32 * 40
EVERY = CONVOLUTION + DEPTHWISE + ODD + 15 * 64 + STRIDED + LINEAR
LAYERS, HIGHEST = 6, 7


def network() -> nn.Module:
    """A layer of each kind that matters. The second 1x1 convolution has rows of an odd length."""
    layers = [
        nn.Conv2d(3, 20, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(20, 20, 3, padding=1, groups=20),
        nn.ReLU(),
        nn.Conv2d(20, 15, 1),
        nn.ReLU(),
        nn.Conv2d(15, 64, 1),
        nn.ReLU6(),
        nn.Conv2d(64, 32, 1, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 40),
    ]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in layers:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.normal_(layer.weight, std=(layer.weight[0].numel() / 2) ** -0.5)
    return nn.Sequential(*layers).eval()


@functools.cache
def program() -> QuantizedProgram:
    return quantize(network(), noise(SHAPE, 64), weight_bits=4)


@functools.cache
def linear() -> QuantizedProgram:
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16))
    return quantize(model, noise((64,), 64), weight_bits=4)


@functools.cache
def contents(format_name: Format, precision: Precision, int4: bool) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as place:
        export_program(program(), format_name, precision, Path(place), UNLABELLED, int4)
        parts = [part for part in Path(place).rglob("*") if part.is_file()]
        return {part.relative_to(place).as_posix(): part.read_bytes() for part in parts}


def exported(folder: Path, format_name: Format, precision: Precision, int4: bool = True) -> Path:
    for name, content in contents(format_name, precision, int4).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder / MODEL_FILE[format_name]


def answers(file: Path) -> np.ndarray:
    session = open_session(file)
    return session.run(session.encode(noise(SHAPE, 40, seed=3).numpy()))


def bytes_of(graph: FileGraph) -> int:
    return sum(one.bytes for one in weights(graph))


def weights(graph: FileGraph) -> list[FileTensor]:
    used = {index for node in graph.nodes for index in node.inputs}
    return [one for one in graph.tensors if one.index in used and one.constant is not None and one.dtype == "int8"]


def as_torch(tensor: FileTensor, format_name: Format) -> np.ndarray:
    """A weight of a file with its channels first, and what is left of its shape as torch has it, flat."""
    numbers = np.moveaxis(tensor.constant, tensor.axis or 0, 0)
    if format_name == "tflite" and numbers.ndim == 4 and tensor.axis == 0:
        numbers = numbers.transpose(0, 3, 1, 2)
    return numbers.reshape(len(numbers), -1)


def test_two_numbers_are_in_a_byte_the_first_in_its_lower_half() -> None:
    numbers = np.array([[1, -2, 7], [-8, 3, -1]], dtype=np.int8)
    assert packed(numbers).tolist() == [0xE1, 0x87, 0xF3]
    assert packed(numbers.ravel()[:5]).tolist() == [0xE1, 0x87, 0x03]
    for shape in ((2, 3), (6,), (5,)):
        some = numbers.ravel()[: np.prod(shape)].reshape(shape)
        np.testing.assert_array_equal(unpacked(packed(some), shape), some)
    with pytest.raises(ValueError, match="6 numbers of 4 bits for 8"):
        unpacked(packed(numbers), (8,))


def test_numbers_fit_from_minus_8_to_7() -> None:
    for numbers, fitting in (([-8, 7], True), ([-9, 0], False), ([0, 8], False)):
        assert fits(np.array(numbers, dtype=np.int8)) is fitting


@pytest.mark.parametrize("precision", ["int8", "int8-weights"])
@pytest.mark.parametrize("format_name", ["tflite", "onnx", "openvino"])
def test_learned_numbers_are_in_the_file(format_name: Format, precision: Precision, tmp_path: Path) -> None:
    graph = read_graph(exported(tmp_path, format_name, precision))
    table = kept(program().table, precision)
    found = read_back(table, graph)
    assert (found.problems, found.exact) == ((), len(table))
    forms = [form for form in program().frozen(stored=True).modules() if isinstance(form, StoredWeight)]
    assert len(forms) == LAYERS
    for form in forms:
        numbers, scale = form.stored.numpy(), form.scale.numpy().tobytes()
        (tensor,) = (one for one in weights(graph) if np.array(one.scale).tobytes() == scale)
        np.testing.assert_array_equal(as_torch(tensor, format_name), numbers.reshape(len(numbers), -1))
        assert np.abs(numbers).max() == HIGHEST


@pytest.mark.parametrize(
    ("format_name", "precision", "stored"),
    [
        ("tflite", "int8", ODD + LINEAR),
        ("tflite", "int8-weights", 0),
        ("onnx", "int8", EVERY - DEPTHWISE),
        ("onnx", "int8-weights", EVERY - DEPTHWISE),
        ("openvino", "int8", STRIDED + LINEAR),
        ("openvino", "int8-weights", STRIDED + LINEAR),
        ("ort", "int8", 0),
        ("coreml", "int8", 0),
    ],
)
def test_what_a_runtime_takes_is_stored_in_4_bits(
    format_name: Format, precision: Precision, stored: int, tmp_path: Path
) -> None:
    """It answers bit for bit what it does with the same numbers in 8, and its fast path takes every operation."""
    folders = tmp_path / "wide", tmp_path / "narrow"
    wide, narrow = (exported(folder, format_name, precision, folder.name == "narrow") for folder in folders)
    graphs = read_graph(wide), read_graph(narrow)
    assert stored_weights(graphs[0]) == {"int4": 0, "int8": EVERY}
    assert stored_weights(graphs[1]) == {"int4": stored, "int8": EVERY - stored}
    assert bytes_of(graphs[0]) - bytes_of(graphs[1]) == stored // 2
    np.testing.assert_array_equal(answers(wide), answers(narrow))
    assert open_session(narrow).placement().undelegated == ()
    sizes = [sum(part.stat().st_size for part in folder.rglob("*") if part.is_file()) for folder in folders]
    assert sizes[0] > sizes[1] if stored else sizes[0] == sizes[1]


def test_files_are_smaller_by_half_a_byte_a_weight(tmp_path: Path) -> None:
    """TFLite: the whole file. OpenVINO: its binary. ONNX: what it holds in its constants."""
    count = 64 * 32 + 32 * 16

    def sizes(folder: str, int4: bool) -> list[int]:
        place = tmp_path / folder
        place.mkdir()
        files = {name: export_program(linear(), name, "int8", place, UNLABELLED, int4) for name in ("tflite", "onnx")}
        constants = onnx.load(str(files["onnx"])).graph.initializer
        return [files["tflite"].stat().st_size, sum(len(tensor.raw_data) for tensor in constants)]

    assert np.subtract(sizes("wide", False), sizes("narrow", True)).tolist() == [count // 2] * 2


def test_pointwise_convolutions_are_written_as_fully_connected(tmp_path: Path) -> None:
    nodes = [node.op for node in read_graph(exported(tmp_path, "tflite", "int8")).nodes]
    assert nodes.count("FULLY_CONNECTED") == 2
    assert [op for op in nodes if op.endswith("CONV_2D")] == ["CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D", "CONV_2D"]


@pytest.mark.parametrize("format_name", ["tflite", "openvino"])
def test_weights_of_8_bits_stay_what_they_are(format_name: Format, tmp_path: Path) -> None:
    plain = small.exported(tmp_path, format_name).read_bytes()
    file = export_program(small.quantized(), format_name, "int8", tmp_path, small.FEATURES, int4=False)
    assert file.read_bytes() == plain
    assert stored_weights(read_graph(file))["int4"] == 0


def test_a_runtime_that_takes_no_4_bits_gets_the_same_numbers_in_8(tmp_path: Path) -> None:
    file = export(program(), load_target("tflite-armv7"), tmp_path, UNLABELLED)
    assert stored_weights(read_graph(file)) == {"int4": 0, "int8": EVERY}
    assert load_target("tflite-arm").takes_int4


def test_the_table_of_an_embedding_keeps_8_bits(tmp_path: Path) -> None:
    encoder = quantize(text_student("text_encoder"), ids(64, seed=1), weight_bits=4)
    graph = read_graph(export_program(encoder, "onnx", "int8", tmp_path, CARDS["logits"]))
    assert read_back(encoder.table, graph).problems == ()
    (table,) = (one for one in weights(graph) if one.shape == (60, 16))
    assert np.abs(table.constant).max() == 127
    assert not table.int4
    assert stored_weights(graph)["int4"] > 0


def test_a_constant_of_4_bits_that_is_cut_short_is_damage(tmp_path: Path) -> None:
    model = read(exported(tmp_path, "tflite", "int8").read_bytes())
    tensor = next(one for one in model.subgraphs[0].tensors if one.type == schema.TensorType.INT4)
    set_constant(model, tensor, np.asarray(model.buffers[tensor.buffer].data, dtype=np.uint8)[:-1])
    file = tmp_path / "damaged.tflite"
    file.write_bytes(pack(model))
    with pytest.raises(UsageError, match="damaged TFLite file"):
        read_graph(file)
