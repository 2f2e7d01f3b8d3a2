"""Model files that are damaged, foreign, hostile or too new, in the hands of `bench` and `verify`: one line each."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
from ai_edge_litert import schema_py_generated as schema
from coremltools.proto import Model_pb2
from onnx import TensorProto, helper, numpy_helper

from edgekd.bench.foreign import generated_inputs
from edgekd.dependencies import EXPORTING, EXTRAS, FORMAT_EXTRAS, RUNTIMES
from edgekd.export.formats import MODEL_FILE, export_program
from edgekd.export.tflite_pack import pack
from edgekd.readers.ort import SCHEMA
from edgekd.runtimes import open_session
from tests.conftest import Run
from tests.export.small import FEATURES, quantized, samples
from tests.test_cli import WITHOUT, assert_one_line, environment
from tests.verify.test_published import RUNTIMES as RUNTIME_OF
from tests.verify.test_published import verify as verify_here

pytestmark = pytest.mark.slow

FORMATS = tuple(MODEL_FILE)
DAMAGED, REFUSED = 2, 6
SPECIFICATION = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
NOWHERE = 999
OP_TYPE, INPUTS = 14, 20
"""Fields of a node in an ORT file."""
Models = dict[str, Path]
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """By format: a folder that looks published, with a good int8 model in it."""
    folders = {name: tmp_path_factory.mktemp(name) for name in FORMATS}
    for name, folder in folders.items():
        session = open_session(export_program(quantized(), name, "int8", folder, FEATURES))
        inputs = session.encode(samples(3).numpy())
        np.savez(folder / "golden.npz", input=inputs, output=session.run(inputs))
        manifest = {
            "target": name,
            "model": MODEL_FILE[name],
            "runtime": RUNTIME_OF[name],
            "precision": "int8",
            "output": {"meaning": "logits"},
            "parity": {"limits": {"max_lsb": 1}},
            "quantizers": [dataclasses.asdict(entry) for entry in quantized().table],
            "files": {},
        }
        (folder / "manifest.json").write_text(json.dumps(manifest))
    return folders


def command(folder: Path, *arguments: str, without: tuple[str, str] | None = None, prefix: Path | None = None) -> Run:
    """Run edgekd in a folder; without: distributions and modules that are not to be found."""
    start = ["-m", "edgekd"] if without is None else ["-c", WITHOUT, *without]
    if prefix is not None:
        start = ["-c", f"import sys; sys.prefix = {str(prefix)!r}; from edgekd.cli import main; main()"]
    done = subprocess.run(
        [sys.executable, *start, *arguments],
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)


def bench(file: Path) -> Run:
    """What `bench` says of a file; if that is an error, no run times are kept."""
    kept = file.parent / "samples.npy"
    run = command(file.parent, "bench", file.name, "--protocol", "brief", "--samples", kept.name)
    assert run.code == 0 or not kept.exists()
    return run


def verify(folder: Path) -> Run:
    """What `verify` says of a folder. Core ML is read in this process: edgekd's interpreter has no native code."""
    if (folder / MODEL_FILE["coreml"]).is_dir():
        return verify_here(folder)
    return command(folder.parent, "verify", folder.name)


def cut(part: str, keep: float) -> Change:
    """A part of a model, cut to a share of its length or to so many bytes."""

    def change(folder: Path) -> None:
        content = (folder / part).read_bytes()
        (folder / part).write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])

    return change


def remove(part: str) -> Change:
    return lambda folder: (folder / part).unlink()


def tflite(edit: Callable[[Any], None]) -> Change:
    """Edit the schema object of a TFLite file."""

    def change(folder: Path) -> None:
        file = folder / "model.tflite"
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(file.read_bytes(), 0))
        edit(model)
        file.write_bytes(pack(model))

    return change


def onnx_model(edit: Callable[[Any], None]) -> Change:
    def change(folder: Path) -> None:
        file = folder / "model.onnx"
        model = onnx.load(str(file))
        edit(model)
        file.write_bytes(model.SerializeToString())

    return change


def ir(pattern: str, replacement: str) -> Change:
    """Change the first match of a pattern in the XML."""

    def change(folder: Path) -> None:
        file = folder / "model.xml"
        text, count = re.subn(pattern, replacement, file.read_text(), count=1)
        assert count == 1
        file.write_text(text)

    return change


def package(edit: Callable[[Any], None]) -> Change:
    """Edit the specification in a Core ML package; `edit` is given its operations."""

    def change(folder: Path) -> None:
        file = folder / "model.mlpackage" / SPECIFICATION
        model = Model_pb2.Model.FromString(file.read_bytes())
        function = model.mlProgram.functions["main"]
        edit(function.block_specializations[function.opset].operations)
        file.write_bytes(model.SerializeToString())

    return change


def unread_tensor(model: Any) -> None:
    operator = model.subgraphs[0].operators[1]
    operator.inputs = np.array([NOWHERE, *operator.inputs[1:]], dtype=np.int32)


def unmade_value(model: Any) -> None:
    model.graph.node[3].input[0] = "nothing"


def lost_constant(model: Any) -> None:
    del model.graph.initializer[2]


def unnamed_value(folder: Path) -> None:
    """The first node of an ORT model reads what is called like an operation."""
    file = folder / "model.ort"
    content = bytearray(file.read_bytes())
    graph = SCHEMA.InferenceSession.InferenceSession.GetRootAs(content, 0).Model().Graph()
    tables = [graph.Nodes(position)._tab for position in range(graph.NodesLength())]
    first = tables[0].Vector(tables[0].Offset(INPUTS))
    ops = (table.Indirect(table.Pos + table.Offset(OP_TYPE)) for table in tables)
    content[first : first + 4] = (next(place for place in ops if place > first) - first).to_bytes(4, "little")
    file.write_bytes(bytes(content))


def lies_elsewhere(location: str) -> Change:
    """The first constant of an ONNX model lies in another file."""

    def edit(model: Any) -> None:
        move(model.graph.initializer[0], location)

    def change(folder: Path) -> None:
        (folder / "weights.bin").write_bytes(bytes(4096))
        onnx_model(edit)(folder)

    return change


def move(tensor: Any, location: str) -> None:
    size = numpy_helper.to_array(tensor).nbytes
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(size))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def hidden_elsewhere(inside_graph: bool) -> Change:
    """The same for a constant that is no initializer: a node's own, or one of a graph inside a node."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
    number = numpy_helper.from_array(np.zeros(4, dtype=np.float32), "number")
    add = helper.make_node("Add", ["x", "number"], ["y"])
    if inside_graph:
        branch = helper.make_graph([add], "branch", [], ends[1:], [number])
        truth = numpy_helper.from_array(np.array(True), "truth")
        node = helper.make_node("If", ["truth"], ["y"], then_branch=branch, else_branch=branch)
        graph = helper.make_graph([node], "graph", ends[:1], ends[1:], [truth])
    else:
        node = helper.make_node("Constant", [], ["number"], value=number)
        graph = helper.make_graph([node, add], "graph", ends[:1], ends[1:])
    for attribute in graph.node[0].attribute:
        move(attribute.g.initializer[0] if inside_graph else attribute.t, "weights.bin")
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()

    def change(folder: Path) -> None:
        (folder / "weights.bin").write_bytes(bytes(4096))
        (folder / "model.onnx").write_bytes(content)

    return change


def entities(folder: Path) -> None:
    """A few lines of XML that would be many gigabytes."""
    text = '<!ENTITY e0 "many">' + "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 20}">' for n in range(1, 12))
    (folder / "model.xml").write_text(f"<!DOCTYPE net [{text}]><net><layers>&e11;</layers></net>")


def root_path(path: str) -> Change:
    """The manifest of a Core ML package says that its model lies there."""

    def change(folder: Path) -> None:
        manifest_file = folder / "model.mlpackage" / "Manifest.json"
        manifest = json.loads(manifest_file.read_text())
        shutil.copy(folder / "model.mlpackage" / SPECIFICATION, folder / "other.mlmodel")
        manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = path
        manifest_file.write_text(json.dumps(manifest))

    return change


def link(part: str, target: str) -> Change:
    """A part of a model becomes a link; what was there lies at other.mlmodel beside the model."""

    def change(folder: Path) -> None:
        shutil.move(folder / part, folder / "other.mlmodel")
        (folder / part).symlink_to(target.format(folder=folder))

    return change


def weights_elsewhere(operations: Any) -> None:
    for operation in operations:
        for value in operation.attributes.values():
            if value.WhichOneof("value") == "blobFileValue":
                value.blobFileValue.fileName = "@model_path/../../../other.bin"


def first_conv(operations: Any) -> Any:
    return next(operation for operation in operations if operation.type == "conv")


def unmade_input(operations: Any) -> None:
    first_conv(operations).inputs["x"].arguments[0].name = "nothing"


def unknown_operation(operations: Any) -> None:
    first_conv(operations).type = "conv_of_tomorrow"


def newer_operation(model: Any) -> None:
    model.operatorCodes[0].version = 99


def newer_opset(model: Any) -> None:
    model.opset_import[0].version = 99


def newer_ir(model: Any) -> None:
    model.ir_version = 99


PACKAGE = "model.mlpackage"
MODEL_PART = {name: f"{file}/{SPECIFICATION}" if name == "coreml" else file for name, file in MODEL_FILE.items()}
BY_THE_RUNTIME = {"tflite": REFUSED, "coreml": REFUSED}
"""What `bench` says of a cut file: only the runtime sees it. Core ML does not run here at all."""
CASES: dict[str, tuple[str, Change, int, int, str]] = {
    **{f"zero bytes, {name}": (name, cut(part, 0), DAMAGED, DAMAGED, "not a") for name, part in MODEL_PART.items()},
    **{
        f"{keep} kept, {name}": (name, cut(part, keep), BY_THE_RUNTIME.get(name, DAMAGED), DAMAGED, "")
        for name, part in MODEL_PART.items()
        for keep in (20, 0.5)
    },
    "no .bin": ("openvino", remove("model.bin"), DAMAGED, DAMAGED, "its weights, model.bin, are not beside it"),
    "zero bytes, .bin": ("openvino", cut("model.bin", 0), DAMAGED, DAMAGED, "damaged OpenVINO model"),
    "a cut .bin": ("openvino", cut("model.bin", -4), DAMAGED, DAMAGED, "damaged OpenVINO model"),
    "an offset beyond the .bin": (
        "openvino", ir(r'offset="\d+" size', 'offset="99999999" size'), DAMAGED, DAMAGED, "damaged OpenVINO model",
    ),
    "an offset before the .bin": (
        "openvino", ir(r'offset="\d+" size', 'offset="-64" size'), DAMAGED, DAMAGED, "damaged OpenVINO model",
    ),
    "an offset of 64 bits": (
        "openvino", ir(r'offset="\d+" size', f'offset="{2**64 - 1}" size'), DAMAGED, DAMAGED, "damaged OpenVINO model",
    ),
    "a size beyond the .bin": (
        "openvino", ir(r'(offset="\d+") size="\d+"', r'\1 size="99999999999"'), DAMAGED, DAMAGED, "damaged OpenVINO",
    ),
    "entities in the XML": ("openvino", entities, DAMAGED, DAMAGED, "not an OpenVINO model"),
    "no manifest": ("coreml", remove(f"{PACKAGE}/Manifest.json"), DAMAGED, DAMAGED, "not a Core ML package"),
    "a cut manifest": ("coreml", cut(f"{PACKAGE}/Manifest.json", 0.5), DAMAGED, DAMAGED, "names no model"),
    "no weights": ("coreml", remove(f"{PACKAGE}/{WEIGHTS}"), REFUSED, DAMAGED, "are not in it"),
    "cut weights": ("coreml", cut(f"{PACKAGE}/{WEIGHTS}", 0.5), REFUSED, DAMAGED, "damaged Core ML package"),
    "a model outside": ("coreml", root_path("../../other.mlmodel"), DAMAGED, DAMAGED, "outside of itself"),
    "a model at the root": ("coreml", root_path("/etc/passwd"), DAMAGED, DAMAGED, "outside of itself"),
    "a model that is not there": ("coreml", root_path("gone.mlmodel"), DAMAGED, DAMAGED, "is not in it"),
    "a model behind a link": (
        "coreml", link(f"{PACKAGE}/{SPECIFICATION}", "{folder}/other.mlmodel"), DAMAGED, DAMAGED, "outside of itself",
    ),
    "a link in a circle": (
        "coreml", link(f"{PACKAGE}/{SPECIFICATION}", "model.mlmodel"), DAMAGED, DAMAGED, "not a Core ML package",
    ),
    "weights outside": ("coreml", package(weights_elsewhere), REFUSED, DAMAGED, "outside of itself"),
    "a tensor that is not there, tflite": ("tflite", tflite(unread_tensor), REFUSED, DAMAGED, "damaged TFLite file"),
    "a tensor that is not there, onnx": ("onnx", onnx_model(unmade_value), REFUSED, DAMAGED, "damaged ONNX file"),
    "a constant that is not there, onnx": ("onnx", onnx_model(lost_constant), REFUSED, DAMAGED, "damaged ONNX file"),
    "a tensor that is not there, ort": ("ort", unnamed_value, DAMAGED, DAMAGED, "damaged ORT model"),
    "an edge that is not there, openvino": (
        "openvino", ir(r"<edge [^>]*/>", ""), DAMAGED, DAMAGED, "damaged OpenVINO model",
    ),
    "a layer that is not there, openvino": (
        "openvino", ir(r'from-layer="\d+"', f'from-layer="{NOWHERE}"'), DAMAGED, DAMAGED, "damaged OpenVINO model",
    ),
    "a tensor that is not there, coreml": ("coreml", package(unmade_input), REFUSED, DAMAGED, "damaged Core ML"),
    "data far outside": ("onnx", lies_elsewhere("../../etc/passwd"), DAMAGED, DAMAGED, "lies in another file"),
    "data at the root": ("onnx", lies_elsewhere("/etc/passwd"), DAMAGED, DAMAGED, "lies in another file"),
    "data in another file": ("onnx", lies_elsewhere("weights.bin"), DAMAGED, DAMAGED, "lies in another file"),
    "data of a node elsewhere": ("onnx", hidden_elsewhere(False), DAMAGED, DAMAGED, "lies in another file"),
    "data of a branch elsewhere": ("onnx", hidden_elsewhere(True), DAMAGED, DAMAGED, "lies in another file"),
    "a newer operation, tflite": ("tflite", tflite(newer_operation), REFUSED, REFUSED, "version '99'"),
    "a newer opset, onnx": ("onnx", onnx_model(newer_opset), REFUSED, REFUSED, "onnxruntime refuses it"),
    "a newer version, onnx": ("onnx", onnx_model(newer_ir), REFUSED, REFUSED, "onnxruntime refuses it"),
    "a newer version, openvino": (
        "openvino", ir(r'(<net [^>]*version=)"\d+"', r'\1"99"'), REFUSED, REFUSED, "OpenVINO refuses it",
    ),
    "a newer opset, openvino": (
        "openvino", ir(r'version="opset\d+"', 'version="opset99"'), REFUSED, REFUSED, "OpenVINO refuses it",
    ),
    "an unknown operation, coreml": ("coreml", package(unknown_operation), REFUSED, REFUSED, "conv_of_tomorrow"),
}  # fmt: skip
"""Format, what is done to a good model, how `bench` and `verify` end, and what one of them says."""


@pytest.mark.parametrize("name", FORMATS)
def test_untouched_they_are_good(name: str, models: Models) -> None:
    run = verify(models[name])
    assert (run.code, run.stderr) == (0, "")


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_with_a_model_is_one_line(case: str, models: Models, tmp_path: Path) -> None:
    name, change, bench_code, verify_code, words = CASES[case]
    folder = Path(shutil.copytree(models[name], tmp_path / "folder", symlinks=True))
    change(folder)
    lines = [
        assert_one_line(bench(folder / MODEL_FILE[name]), bench_code),
        assert_one_line(verify(folder), verify_code),
    ]
    for line in lines:
        assert MODEL_FILE[name] in line or (name == "coreml" and "Apple devices only" in line)
        assert "unexpected" not in line
    assert any(words in line for line in lines), lines


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("other", FORMATS)
def test_another_format_under_the_suffix_is_refused(name: str, other: str, models: Models, tmp_path: Path) -> None:
    if name == other:
        return
    folder = Path(shutil.copytree(models[other], tmp_path / "folder"))
    (folder / MODEL_FILE[other]).rename(folder / MODEL_FILE[name])
    shutil.copy(models[name] / "manifest.json", folder / "manifest.json")
    for run in (bench(folder / MODEL_FILE[name]), command(tmp_path, "verify", "folder")):
        assert MODEL_FILE[name] in assert_one_line(run, DAMAGED)


def open_sides(name: str, folder: Path, *sides: int) -> Path:
    """A good model whose input's shape is left open at these sides."""
    file = folder / MODEL_FILE[name]
    if name == "tflite":

        def edit(model: Any) -> None:
            tensor = model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]]
            tensor.shapeSignature = np.array(tensor.shape, dtype=np.int32)
            tensor.shapeSignature[list(sides)] = -1

        tflite(edit)(folder)
    elif name == "onnx":

        def edit(model: Any) -> None:
            for side in sides:
                model.graph.input[0].type.tensor_type.shape.dim[side].dim_param = f"side_{side}"
            model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "side_0"

        onnx_model(edit)(folder)
    else:
        model = openvino.Core().read_model(str(file))
        model.reshape([-1 if side in sides else count for side, count in enumerate(model.inputs[0].shape)])
        openvino.save_model(model, str(folder / "open.xml"), compress_to_fp16=False)
        file = folder / "open.xml"
    return file


@pytest.mark.parametrize("name", ["tflite", "onnx", "openvino"])
def test_a_model_with_an_open_batch_is_run_with_one_sample(name: str, models: Models, tmp_path: Path) -> None:
    fixed = models[name] / MODEL_FILE[name]
    file = open_sides(name, Path(shutil.copytree(models[name], tmp_path / "folder")), 0)
    session, other = open_session(file), open_session(fixed)
    assert session.inputs == other.inputs
    (inputs,) = generated_inputs(session.inputs)
    np.testing.assert_array_equal(session.run(inputs), other.run(inputs))


@pytest.mark.parametrize("name", ["tflite", "onnx", "openvino"])
def test_a_model_with_an_open_side_is_refused(name: str, models: Models, tmp_path: Path) -> None:
    """One pixel in its place would make it look fast."""
    file = open_sides(name, Path(shutil.copytree(models[name], tmp_path / "folder")), 0, 2)
    line = assert_one_line(bench(file), DAMAGED)
    assert "input 'input' has no fixed shape (?, " in line


@pytest.mark.parametrize("verb", ["bench", "verify"])
@pytest.mark.parametrize(
    ("name", "package"), [(name, package) for name in FORMATS for package in RUNTIMES[RUNTIME_OF[name]]]
)
def test_without_its_runtime_the_command_that_installs_it_is_given(
    verb: str, name: str, package: str, models: Models
) -> None:
    folder = models[name]
    argument = MODEL_FILE[name] if verb == "bench" else "."
    run = command(folder, verb, argument, without=(package, package.replace("-", "_")))
    line = assert_one_line(run, 3)
    assert f"not installed: {package}; run: pip install 'edgekd[{EXTRAS[RUNTIME_OF[name]]}]'" in line


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("verb", ["plan", "build"])
def test_without_its_converter_nothing_is_begun(verb: str, name: str, tmp_path: Path) -> None:
    target = {"tflite": "tflite-arm", "onnx": "onnx-arm", "ort": "onnx-android", "openvino": "openvino-x86"}
    absent = EXPORTING[name]
    without = (",".join(absent), ",".join(package.replace("-", "_") for package in absent))
    run = command(tmp_path, verb, "--target", target.get(name, "coreml-ios"), without=without)
    line = assert_one_line(run, 3)
    assert f"not installed: {', '.join(sorted(absent))}; run: pip install 'edgekd[{FORMAT_EXTRAS[name]}]'" in line
    assert not (tmp_path / "store" / "artifacts").exists()


@pytest.mark.parametrize("arguments", [("plan", "--target", "tflite-armv7"), ("verify", "folder")], ids=lambda a: a[0])
def test_without_its_environment_the_command_that_makes_it_is_given(
    arguments: tuple[str, ...], models: Models, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(models["tflite"], tmp_path / "folder"))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "runtime": "tflite-runtime"}))
    line = assert_one_line(command(tmp_path, *arguments, prefix=tmp_path / "an environment"), 3)
    place = f"{tmp_path}/an environment/apart/tflite-runtime"
    assert line.startswith(f"edgekd: tflite-runtime has no environment at {place}; run: ")
    assert f"-m venv '{place}' && '{place}/bin/python' -m pip install tflite-runtime==2.14.0 'numpy<2'" in line
