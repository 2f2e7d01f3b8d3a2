"""Where a changed file departs from the trained model."""

import dataclasses
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from edgekd.artifact import Artifact, FileInfo, Provenance, State
from edgekd.compress import QuantizedProgram, nncf_backend
from edgekd.compress.program import save_program
from edgekd.errors import GateError
from edgekd.export.formats import MODEL_FILE, export_float, export_program
from edgekd.models.build import save_module
from edgekd.models.evaluate import predict
from edgekd.readers import read_graph
from edgekd.readers.graph import FileTensor
from edgekd.recipe import Budgets
from edgekd.runtimes import open_session
from edgekd.step import Work
from edgekd.step_configs import VerifyConfig
from edgekd.target import CoverageLimits, ParityLimits
from edgekd.verify.bisect import Departure, first_departure
from edgekd.verify.readback import read_back
from edgekd.verify.steps import verify_export
from tests.export.small import ARCHITECTURES, FEATURES, SHAPE, quantized, student

FORMATS = ("tflite", "onnx", "openvino", "coreml")
FAMILIES = ("ds_cnn", "resnet")
FIRST, SECOND, LAST = "stem.0.weight", "blocks.0.0.0.weight", "classifier.weight"
BEHIND = {FIRST: "stem/2/relu/0", SECOND: "blocks/0/0/2/relu/0", LAST: "classifier/linear/0"}
"""The quantizer that each of these weights' layers ends in."""


@functools.cache
def contents(name: str, family: str) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        export_program(quantized(family), name, "int8", Path(folder), FEATURES)
        files = (file for file in Path(folder).rglob("*") if file.is_file())
        return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def exported(name: str, folder: Path, family: str = "ds_cnn") -> Path:
    """A quantized student in a format, for a test to change."""
    for part, content in contents(name, family).items():
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        (folder / part).write_bytes(content)
    return folder / MODEL_FILE[name]


def on_the_grid(count: int) -> torch.Tensor:
    """Inputs that the input's quantizer does not round, shape (N, 3, 8, 6)."""
    pixels = np.random.default_rng(3).integers(0, 256, (count, *SHAPE)).astype(np.float32)
    return torch.from_numpy((pixels - 128) / 64)


def departure(file: Path, inputs: torch.Tensor, family: str = "ds_cnn") -> Departure | None:
    session, graph, program = open_session(file), read_graph(file), quantized(family)
    readback = read_back(program.table, graph)
    assert readback.problems == ()
    return first_departure(session, graph, readback.places, program, inputs, session.encode(inputs.numpy())[0])


def weight_of(file: Path, name: str) -> FileTensor:
    """A weight of the file; Core ML holds its scales as float16."""
    entry = next(entry for entry in quantized().table if entry.tensor == name)
    return next(
        tensor
        for tensor in read_graph(file).tensors
        if tensor.constant is not None and np.shape(tensor.scale) == np.shape(entry.scale)
        if np.allclose(tensor.scale, entry.scale, rtol=1e-3)
    )


def turn(file: Path, name: str, place: tuple[int, ...] | None = None) -> int:
    """Set one number of a weight to the end of the range that is farther away; returns that number.

    place: in the file's own layout; else that of the largest.
    """
    numbers = weight_of(file, name).constant
    assert numbers is not None
    changed = numbers.copy()
    place = place or tuple(map(int, np.unravel_index(np.abs(numbers.astype(int)).argmax(), numbers.shape)))
    changed[place] = -127 if numbers[place] > 0 else 127
    for part in (one for one in file.parent.rglob("*") if one.is_file()):
        content = part.read_bytes()
        if numbers.tobytes() in content:
            part.write_bytes(content.replace(numbers.tobytes(), changed.tobytes()))
            return int(changed[place])
    raise AssertionError(f"{file}: the weight is not in it")


def learned_outputs(program: QuantizedProgram, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """What each activation's quantizer of the trained model gives."""
    found: dict[str, torch.Tensor] = {}
    hooks = [
        placed.quantizer.register_forward_hook(
            lambda module, given, output, name=placed.tensor: found.update({name: output.detach()})
        )
        for placed in nncf_backend.quantizers_of(program.model, program.example)
        if not placed.is_weight
    ]
    with torch.no_grad():
        program.model(inputs)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", FORMATS)
def test_a_good_file_departs_nowhere(name: str, family: str, tmp_path: Path) -> None:
    file = exported(name, tmp_path, family)
    assert [departure(file, inputs[None], family) for inputs in on_the_grid(10)] == [None] * 10


@pytest.mark.parametrize("name", FORMATS)
def test_one_changed_weight_is_found_behind_its_own_layer_with_both_values(name: str, tmp_path: Path) -> None:
    file, program, inputs = exported(name, tmp_path), quantized(), on_the_grid(1)
    before = learned_outputs(program, inputs)
    channel = int(before[BEHIND[FIRST]].mean((0, 2, 3)).argmax())
    middle = (0, 1, 1, channel) if name == "tflite" else (channel, 0, 1, 1)
    number = turn(file, SECOND, middle)

    table = {entry.tensor: entry for entry in program.table}
    weight = program.frozen(stored=True).get_submodule("blocks.0.0.0").weight.detach().clone()
    weight[channel, 0, 1, 1] = number * table[SECOND].scale[channel]
    bias = program.model.get_parameter("blocks.0.0.0.bias").detach()
    outputs = torch.relu(F.conv2d(before[BEHIND[FIRST]], weight, bias, padding=1, groups=len(weight)))
    entry = table[BEHIND[SECOND]]
    steps = torch.round(outputs / entry.scale[0]) + entry.zero_point[0]
    after = (steps.clamp(entry.low, entry.high) - entry.zero_point[0]) * entry.scale[0]
    differences = (after - before[BEHIND[SECOND]]).abs() / entry.scale[0]

    found = departure(file, inputs)
    assert found is not None
    assert found.layer == BEHIND[SECOND]
    assert found.steps == pytest.approx(float(differences.max()), abs=2.5)
    assert found.steps == pytest.approx(abs(found.expected - found.found) / entry.scale[0], rel=1e-4)
    ours = (before[BEHIND[SECOND]] - found.expected).abs() < 0.5 * entry.scale[0]
    theirs = (after - found.found).abs() < 2.5 * entry.scale[0]
    assert bool((ours & theirs).any())
    assert f"behind '{BEHIND[SECOND]}'" in str(found)
    assert f"{found.expected:.6g} in torch, {found.found:.6g} in the file" in str(found)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("weight", [FIRST, LAST])
def test_the_first_and_the_last_layer_are_told_apart(name: str, weight: str, tmp_path: Path) -> None:
    file = exported(name, tmp_path)
    turn(file, weight)
    found = departure(file, on_the_grid(1))
    assert found is not None
    assert found.layer == BEHIND[weight]
    assert found.steps > 5


def test_the_inner_tensors_of_an_ort_file_tell_nothing(tmp_path: Path) -> None:
    file = exported("ort", tmp_path)
    assert departure(file, on_the_grid(1)) is None
    turn(file, FIRST)
    assert departure(file, on_the_grid(1)) is None


def artifact(path: Path, **facts: Any) -> Artifact:
    files = {file.name: FileInfo(0, "") for file in path.iterdir()}
    return Artifact("", "", path, State(None), files, facts, Provenance({}, {}, "", {}, 0, 0.0, ""))


@pytest.fixture
def work(tmp_path: Path) -> Work[VerifyConfig]:
    """What the step is given that checks a small ONNX model on 60 samples."""
    program, architecture = quantized(), ARCHITECTURES["ds_cnn"]
    places = {name: tmp_path / name for name in ("export", "float", "program", "data", "student", "out")}
    for place in places.values():
        place.mkdir()
    exported("onnx", places["export"])
    export_float(student(), program.example, "onnx", "float32", places["float"], FEATURES)
    save_module(student(), architecture, places["student"])
    save_program(program, places["student"] / "architecture.json", places["program"])
    inputs = on_the_grid(60)
    np.save(places["data"] / "test_inputs.npy", inputs.numpy())
    np.save(places["data"] / "test_labels.npy", predict(program.model, inputs).argmax(1))
    np.save(places["data"] / "golden_raw.npy", inputs[:16].numpy())
    config = VerifyConfig(
        "onnxruntime", "int8", "logits", ParityLimits(1.0, max_lsb=2, samples=60), CoverageLimits(), Budgets(100, 100)
    )
    artifacts = {
        "export": artifact(places["export"], file="model.onnx", bytes=1),
        "float": artifact(places["float"], file="model.onnx"),
        "program": artifact(places["program"], accuracy=1.0),
        "student": artifact(places["student"], accuracy=1.0, macs=1000),
        "compressed": artifact(places["student"], accuracy=1.0, macs=1000),
        "teacher": artifact(places["student"], accuracy=1.0, macs=1000),
        "data": artifact(
            places["data"], preprocessing={"input": "features"}, outputs="classification", labels=list(FEATURES.labels)
        ),
    }
    return Work(config, artifacts, places["out"], 0)


def test_a_good_export_passes_the_step(work: Work[VerifyConfig]) -> None:
    facts = verify_export(work)
    assert facts["parity"]["agreement"] == 1
    assert facts["accuracy"]["exported"] == 1
    assert (work.out / "golden.npz").is_file()


def test_the_step_names_the_layer_at_which_a_changed_export_departs(work: Work[VerifyConfig]) -> None:
    file = work.inputs["export"].path / "model.onnx"
    turn(file, SECOND)
    with pytest.raises(GateError) as caught:
        verify_export(work)
    message = str(caught.value)
    assert message.startswith("parity: the file agrees on 0.")
    assert "\n" not in message
    sample = int(message.partition("test sample ")[2].partition(":")[0])
    found = departure(file, on_the_grid(60)[sample : sample + 1])
    assert found is not None
    assert message.endswith(f"; {found}")
    assert found.layer == BEHIND[SECOND]
    assert list(work.out.iterdir()) == []


def test_the_step_names_no_layer_where_none_can_be_read(work: Work[VerifyConfig], tmp_path: Path) -> None:
    folder = work.inputs["export"].path
    shutil.rmtree(folder)
    folder.mkdir()
    turn(exported("ort", folder), SECOND)
    changed = dataclasses.replace(work.inputs["export"], facts={"file": "model.ort", "bytes": 1})
    with pytest.raises(GateError, match=r"^parity: the file agrees on 0\.\d+ of 60 samples") as caught:
        verify_export(dataclasses.replace(work, inputs={**work.inputs, "export": changed}))
    assert "departs" not in str(caught.value)
