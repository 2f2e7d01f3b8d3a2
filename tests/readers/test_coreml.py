"""A quantized program as a Core ML package: its scales are found, its answers are the same, damage is seen."""

import dataclasses
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coremltools
import numpy as np
import pytest
import torch
from coremltools.proto import Model_pb2
from torch import nn

from edgekd.compress import QuantizedProgram, quantize
from edgekd.errors import EdgekdError, UsageError
from edgekd.export.coreml import export
from edgekd.readers import read_graph as read_any_graph
from edgekd.readers.coreml import read_graph, read_program
from edgekd.readers.graph import FileGraph, layout_changes
from edgekd.verify import parity
from edgekd.verify.readback import Readback, read_back
from tests.export.packages import LOGITS, float_package, int8_package
from tests.export.small import quantized, samples

FAMILIES, HALVES = ("ds_cnn", "resnet"), (False, True)
MODEL = Path("Data") / "com.apple.CoreML" / "model.mlmodel"
WEIGHTS = Path("Data") / "com.apple.CoreML" / "weights" / "weight.bin"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package that a test may damage."""
    return Path(shutil.copytree(int8_package(), tmp_path / "model.mlpackage"))


def judged(package: Path, family: str = "ds_cnn") -> Readback:
    return read_back(quantized(family).table, read_graph(package))


def parsed(package: Path) -> Any:
    return Model_pb2.Model.FromString((package / MODEL).read_bytes())


def operations(model: Any) -> Any:
    function = model.mlProgram.functions["main"]
    return function.block_specializations[function.opset].operations


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_learned_scale_is_found(family: str, half: bool) -> None:
    result = judged(int8_package(family, half), family)
    assert result.problems == ()
    assert result.exact == result.learned == len(quantized(family).table)


@pytest.mark.parametrize(("half", "steps"), [(False, 1.5), (True, 3)])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_answers_like_the_trained_model(family: str, half: bool, steps: float) -> None:
    pixels = torch.round(samples(200) * 64 + 128).clip(0, 255)
    result = parity(int8_package(family, half), quantized(family), (pixels - 128) / 64)
    assert result.agreement >= 0.99
    assert result.max_lsb is not None
    assert result.max_lsb <= steps


@pytest.mark.parametrize("half", HALVES)
def test_scales_are_those_of_the_file_and_say_how_they_are_held(half: bool) -> None:
    graph, table = read_graph(int8_package(half=half)), quantized().table
    scaled = [tensor for tensor in graph.tensors if tensor.scale]
    assert {tensor.half for tensor in scaled} == {half}
    weights = [tensor for tensor in scaled if tensor.constant is not None]
    learned = [np.float32(entry.scale) for entry in table if entry.kind == "weight"]
    expected = [scale.astype(np.float16).astype(np.float32) if half else scale for scale in learned]
    assert sorted(map(tuple, expected)) == sorted(tensor.scale for tensor in weights)
    assert [(tensor.dtype, tensor.axis) for tensor in weights] == [("int8", 0)] * len(learned)


def test_a_scale_that_is_only_half_as_exact_is_not_taken_for_the_learned_one() -> None:
    graph = read_graph(int8_package(half=True))
    claimed = dataclasses.replace(graph, tensors=tuple(dataclasses.replace(one, half=False) for one in graph.tensors))
    assert len(read_back(quantized().table, claimed).problems) > 5


def test_constants_are_those_that_apples_tools_load() -> None:
    model = coremltools.models.MLModel(str(int8_package(half=True)), skip_model_load=True)
    from coremltools.converters.mil.frontend.milproto.load import load

    loaded = load(model.get_spec(), specification_version=8, file_weights_dir=model.weights_dir)
    ours, compared = read_program(int8_package(half=True)), 0
    for operation in loaded.functions["main"].operations:
        for key, variable in operation.inputs.items():
            if isinstance(variable, list | tuple) or variable.val is None or operation.op_type == "classify":
                continue
            name = f"{operation.name}.{key}" if operation.op_type.startswith("constexpr") else variable.name
            if name not in ours.constants:
                continue
            found = ours.constants[name]
            if isinstance(found, str):
                assert found == variable.val
            else:
                np.testing.assert_array_equal(found, variable.val)
                assert found.dtype == np.asarray(variable.val).dtype
            compared += 1
    assert compared > 50


def test_the_graph_has_the_operations_in_order() -> None:
    graph, kinds = read_graph(int8_package()), [one.type for one in operations(parsed(int8_package()))]
    assert [node.op for node in graph.nodes] == [kind for kind in kinds if kind != "const"]
    assert [graph.tensors[index].name for index in (*graph.inputs, *graph.outputs)] == ["input", "output"]
    conv = next(node for node in graph.nodes if node.op == "conv")
    assert [graph.tensors[index].shape for index in conv.inputs] == [(1, 3, 8, 6), (8, 3, 3, 3), (8,)]
    assert layout_changes(graph) == []
    assert read_any_graph(int8_package()).nodes == graph.nodes


def test_a_classifiers_output_is_its_probabilities() -> None:
    graph = read_graph(int8_package(classifier=True))
    (output,) = (graph.tensors[index] for index in graph.outputs)
    assert (output.shape, output.dtype) == ((1, 4), "float32")
    assert judged(int8_package(classifier=True)).problems == ()


def test_a_float_package_has_no_scales() -> None:
    assert [tensor.name for tensor in read_graph(float_package()).tensors if tensor.scale] == []


def nudged(values: np.ndarray) -> np.ndarray:
    """The last number moved by one unit in its last place."""
    values = values.copy()
    values.flat[-1] = np.nextafter(values.flat[-1], values.dtype.type(np.inf))
    return values


def rewrite(tensor: Any) -> None:
    """Nudge an immediate float tensor where it stands."""
    if tensor.WhichOneof("value") == "bytes":
        tensor.bytes.values = nudged(np.frombuffer(tensor.bytes.values, np.float16)).tobytes()
    else:
        tensor.floats.values[:] = nudged(np.array(tensor.floats.values, np.float32)).tolist()


def planted_scales(package: Path) -> Iterator[tuple[str, Any]]:
    """The model once for every scale in it, with that one off by a bit, and the output of the operation it is of."""
    for position, operation in enumerate(operations(parsed(package))):
        model = parsed(package)
        changed = operations(model)[position]
        if operation.type == "const" and operation.outputs[0].name.endswith("_scale"):
            rewrite(changed.attributes["val"].immediateValue.tensor)
            user = next(one for one in operations(model) if changed.outputs[0].name in scale_names(one))
            yield user.outputs[0].name, model
        elif operation.type == "constexpr_affine_dequantize":
            rewrite(changed.attributes["scale"].immediateValue.tensor)
            yield operation.outputs[0].name, model


def scale_names(operation: Any) -> list[str]:
    return [binding.name for binding in operation.inputs["scale"].arguments] if "scale" in operation.inputs else []


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_scale_off_by_one_bit_is_caught_by_name(tmp_path: Path, family: str, half: bool) -> None:
    package = Path(shutil.copytree(int8_package(family, half), tmp_path / "model.mlpackage"))
    names, planted = [f"'{entry.tensor}'" for entry in quantized(family).table], 0
    for place, model in planted_scales(int8_package(family, half)):
        (package / MODEL).write_bytes(model.SerializeToString())
        problems = judged(package, family).problems
        assert problems, place
        assert any(name in problems[0] for name in (*names, f"'{place}'")), (place, problems)
        planted += 1
    activations = sum(entry.kind == "activation" for entry in quantized(family).table)
    assert planted == len(names) + activations


def test_a_zero_point_off_by_one_is_caught(package: Path) -> None:
    planted = 0
    for position, operation in enumerate(operations(parsed(int8_package()))):
        model = parsed(int8_package())
        if operation.type == "const" and operation.outputs[0].name.endswith("_zero_point"):
            tensor = operations(model)[position].attributes["val"].immediateValue.tensor
        elif operation.type == "constexpr_affine_dequantize":
            tensor = operations(model)[position].attributes["zero_point"].immediateValue.tensor
        else:
            continue
        tensor.bytes.values = (np.frombuffer(tensor.bytes.values, np.int8) + 1).astype(np.int8).tobytes()
        (package / MODEL).write_bytes(model.SerializeToString())
        assert judged(package).problems, operation.type
        planted += 1
    assert planted >= 8


class Wide(nn.Module):
    """More channels than a specification holds by itself: scales go to the weight file."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 16), nn.Linear(16, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(inputs)))


@pytest.fixture(scope="module")
def wide() -> QuantizedProgram:
    torch.manual_seed(0)
    return quantize(Wide().eval(), torch.randn(32, 12))


@pytest.mark.parametrize("half", HALVES)
def test_a_scale_in_the_weight_file_off_by_one_bit_is_caught_by_name(
    tmp_path: Path, wide: QuantizedProgram, half: bool
) -> None:
    package, kind = tmp_path / "wide.mlpackage", np.float16 if half else np.float32
    export(wide.frozen(stored=True), wide.example, package, LOGITS, half)
    assert read_back(wide.table, read_graph(package)).problems == ()
    (entry,) = (one for one in wide.table if len(one.scale) == 16)
    scale = np.float32(entry.scale).astype(kind)
    content = (package / WEIGHTS).read_bytes()
    assert content.count(scale.tobytes()) == 1
    (package / WEIGHTS).write_bytes(content.replace(scale.tobytes(), nudged(scale).tobytes()))
    (problem,) = read_back(wide.table, read_graph(package)).problems
    assert "'first.weight'" in problem
    assert "channel 15" in problem


def refused(package: Path, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        read_graph(package)
    assert "\n" not in str(caught.value)
    assert str(package) in str(caught.value)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "gone.mlpackage", "not a Core ML package")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(64)], ids=repr)
def test_a_file_under_the_suffix_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file.mlpackage"
    file.write_bytes(content)
    refused(file, "which is a folder")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.mlpackage").mkdir()
    refused(tmp_path / "empty.mlpackage", r"Manifest\.json")


@pytest.mark.parametrize(
    "manifest", ["", "{}", "[]", "null", '{"rootModelIdentifier": 3}', "[" * 100_000, "\xff", '"x"']
)
def test_a_broken_manifest_is_refused(package: Path, manifest: str) -> None:
    (package / "Manifest.json").write_bytes(manifest.encode("latin-1"))
    refused(package, r"Manifest\.json")


@pytest.mark.parametrize("path", ["../../../../etc/passwd", "/etc/passwd", "..", "../../outside.mlmodel"])
def test_a_manifest_that_points_outside_is_refused(package: Path, path: str) -> None:
    (package.parent / "outside.mlmodel").write_bytes((package / MODEL).read_bytes())
    document = json.loads((package / "Manifest.json").read_text())
    document["itemInfoEntries"][document["rootModelIdentifier"]]["path"] = path
    (package / "Manifest.json").write_text(json.dumps(document))
    refused(package, "outside|not in it")


def test_a_link_that_leads_outside_is_refused(package: Path) -> None:
    (package / WEIGHTS).rename(package.parent / "weight.bin")
    (package / WEIGHTS).symlink_to(package.parent / "weight.bin")
    refused(package, "outside")


@pytest.mark.parametrize(
    "name", ["@model_path/../../../../weight.bin", "/etc/passwd", "weights/weight.bin", "@model_path/weights/gone.bin"]
)
def test_weights_that_are_elsewhere_are_refused(package: Path, name: str) -> None:
    (package.parent / "weight.bin").write_bytes((package / WEIGHTS).read_bytes())
    model = parsed(package)
    constant = next(one for one in operations(model) if one.type == "constexpr_affine_dequantize")
    constant.attributes["quantized_data"].blobFileValue.fileName = name
    (package / MODEL).write_bytes(model.SerializeToString())
    refused(package, "outside|not in it")


def test_missing_weights_are_refused(package: Path) -> None:
    (package / WEIGHTS).unlink()
    refused(package, r"weights/weight\.bin, are not in it")


def test_a_missing_model_is_refused(package: Path) -> None:
    (package / MODEL).unlink()
    refused(package, r"model\.mlmodel, is not in it")


def test_an_older_kind_of_model_is_refused(package: Path) -> None:
    (package / MODEL).write_bytes(Model_pb2.Model(specificationVersion=4).SerializeToString())
    refused(package, "not an ML program")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_model_is_refused(package: Path, share: float) -> None:
    content = (package / MODEL).read_bytes()
    (package / MODEL).write_bytes(content[: int(share * len(content))])
    refused(package, "damaged|not an ML program")


@pytest.mark.parametrize("length", [0, 4, 64, 100, 400, -64])
def test_truncated_weights_are_refused(package: Path, length: int) -> None:
    (package / WEIGHTS).write_bytes((package / WEIGHTS).read_bytes()[:length])
    refused(package, "damaged")


@pytest.mark.parametrize(
    ("place", "value"),
    [(4, 1), (64, 0xDEADBEEE), (68, 3), (72, 215), (72, 1 << 30), (80, 64), (80, 1 << 30), (80, 129)],
    ids=["version", "mark", "dtype", "size", "huge size", "moved", "far away", "not aligned"],
)
def test_metadata_of_weights_that_does_not_fit_is_refused(package: Path, place: int, value: int) -> None:
    content = bytearray((package / WEIGHTS).read_bytes())
    struct.pack_into("<I", content, place, value)
    (package / WEIGHTS).write_bytes(content)
    refused(package, "damaged")


def test_flipped_bytes_never_crash_the_reader(package: Path) -> None:
    random, refusals, read = np.random.default_rng(0), 0, 0
    for part in (MODEL, WEIGHTS, Path("Manifest.json")):
        content = (package / part).read_bytes()
        for _ in range(200):
            changed = bytearray(content)
            for place in random.integers(len(content), size=random.integers(1, 4)):
                changed[place] = random.integers(256)
            (package / part).write_bytes(changed)
            try:
                look(read_graph(package))
                read += 1
            except EdgekdError:
                refusals += 1
        (package / part).write_bytes(content)
    assert read > 0
    assert refusals > 0


def look(graph: FileGraph) -> None:
    read_back(quantized().table, graph)
    layout_changes(graph)
