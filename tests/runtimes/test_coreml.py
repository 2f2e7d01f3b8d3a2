import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.proto import Model_pb2
from torch import nn

from edgekd.bench.measurement import measure
from edgekd.bench.protocol import PROTOCOLS
from edgekd.errors import DeviceError, UsageError
from edgekd.export.card import Card
from edgekd.export.coreml import export
from edgekd.models.evaluate import predict
from edgekd.readers import check_file
from edgekd.readers.coreml import read_graph
from edgekd.runtimes import open_session, runtime_for
from edgekd.runtimes.coreml import CoreMLSession, _picture
from tests.export.packages import LABELS, LOGITS, float_package, int8_package
from tests.export.small import SHAPE, quantized, samples, student

MODEL = Path("Data") / "com.apple.CoreML" / "model.mlmodel"


def pixels(count: int = 20) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


def normalised(numbers: np.ndarray) -> torch.Tensor:
    return torch.from_numpy((numbers.astype(np.float32) - 128) / 64)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return Path(shutil.copytree(int8_package(), tmp_path / "model.mlpackage"))


def rewritten(package: Path, change: Any) -> Path:
    model = Model_pb2.Model.FromString((package / MODEL).read_bytes())
    change(model)
    (package / MODEL).write_bytes(model.SerializeToString())
    return package


def test_a_package_is_opened_by_its_suffix(tmp_path: Path) -> None:
    assert runtime_for(int8_package()) == runtime_for(Path(f"{int8_package()}/")) == "coreml"
    assert isinstance(open_session(int8_package()), CoreMLSession)
    check_file(int8_package())


def test_an_image_goes_in_as_pixels_and_logits_come_out() -> None:
    session = CoreMLSession(int8_package())
    (source,), (sink,) = session.inputs, session.outputs
    assert (source.name, source.shape, source.dtype, source.scale) == ("input", (1, *SHAPE), "uint8", 0)
    assert (sink.name, sink.shape, sink.dtype, sink.scale) == ("output", (1, 4), "float32", 0)


def test_normalised_numbers_are_turned_back_to_pixels() -> None:
    session = CoreMLSession(int8_package())
    np.testing.assert_array_equal(session.encode(normalised(pixels()).numpy()), pixels())
    outside = session.encode(np.array([[[[-9.0]], [[0.004]], [[9.0]]]], dtype=np.float32))
    assert outside.dtype == np.uint8
    assert outside.ravel().tolist() == [0, 128, 255]


@pytest.mark.parametrize("half", [False, True])
def test_samples_are_run_one_by_one(half: bool) -> None:
    session = CoreMLSession(int8_package(half=half))
    found = session.decode(session.run(pixels()))
    assert found.dtype == np.float32
    np.testing.assert_allclose(
        found, predict(quantized().model, normalised(pixels())), atol=3 * quantized().output_scale
    )
    session.set_inputs([pixels()[7:8]])
    session.invoke()
    np.testing.assert_array_equal(session.get_outputs()[0], found[7:8])


def test_a_classifier_gives_its_probabilities_in_label_order() -> None:
    session = CoreMLSession(int8_package(classifier=True))
    assert (session.outputs[0].shape, session.outputs[0].dtype) == ((1, 4), "float32")
    found = session.run(pixels())
    logits = torch.from_numpy(CoreMLSession(int8_package()).run(pixels()))
    np.testing.assert_allclose(found, torch.softmax(logits, 1), atol=1e-6)


def test_what_computes_is_counted() -> None:
    graph = read_graph(int8_package())
    constants = sum(node.op == "constexpr_affine_dequantize" for node in graph.nodes)
    assert constants > 3
    placement = CoreMLSession(int8_package()).placement()
    assert (placement.total, placement.delegates, placement.undelegated) == (len(graph.nodes) - constants, 0, ())


def test_every_tensor_of_a_float_package_is_that_of_torch() -> None:
    session, graph, sample = CoreMLSession(float_package()), read_graph(float_package()), samples(3)
    found = session.tensors(sample.numpy()[0])
    outputs = [index for node in graph.nodes for index in node.outputs]
    assert sorted(found) == sorted(outputs)
    convolutions = [node.outputs[0] for node in graph.nodes if node.op == "conv"]
    seen: list[np.ndarray] = []
    model = student()
    hooks = [
        layer.register_forward_hook(lambda _layer, _inputs, made: seen.append(made.detach().numpy()))
        for layer in model.modules()
        if isinstance(layer, nn.BatchNorm2d)
    ]
    expected = predict(model, sample[:1])
    for hook in hooks:
        hook.remove()
    assert len(convolutions) == len(seen) > 3
    for index, made in zip(convolutions, seen, strict=True):
        assert found[index].dtype == np.float32
        np.testing.assert_allclose(found[index], made, atol=1e-5)
    np.testing.assert_allclose(found[graph.outputs[0]], expected, atol=1e-5)


@pytest.mark.parametrize("half", [False, True])
def test_quantized_tensors_are_given_in_real_numbers(half: bool) -> None:
    graph, session = read_graph(int8_package(half=half)), CoreMLSession(int8_package(half=half))
    found, unsigned = session.tensors(pixels()[0]), 0
    for node in graph.nodes:
        if node.op == "dequantize":
            number = graph.tensors[node.inputs[0]]
            np.testing.assert_array_equal(found[number.index], found[node.outputs[0]])
            assert np.abs(found[number.index]).max() > 0
            unsigned += number.dtype == "uint8"
    assert unsigned > 3
    first = next(index for index in found if graph.tensors[index].scale)
    np.testing.assert_array_equal(found[first], normalised(pixels()[:1]))


def test_pixels_without_their_mean_in_the_metadata_are_refused(package: Path) -> None:
    def change(model: Any) -> None:
        model.description.metadata.userDefined["edgekd.preprocessing"] = "{}"

    session = CoreMLSession(rewritten(package, change))
    with pytest.raises(UsageError, match=r"model\.mlpackage.*mean"):
        session.encode(np.zeros((1, *SHAPE), np.float32))


def test_an_operation_that_nobody_knows_is_refused_when_the_file_is_opened(package: Path) -> None:
    def change(model: Any) -> None:
        function = model.mlProgram.functions["main"]
        operations = function.block_specializations[function.opset].operations
        next(one for one in operations if one.type == "relu").type = "leaky_softmax"

    with pytest.raises(DeviceError, match=r"model\.mlpackage.*leaky_softmax that makes 'relu_0'"):
        CoreMLSession(rewritten(package, change))


@pytest.mark.parametrize("content", [b"", b"hello, this is not a model", b"PK\x03\x04" + bytes(64)], ids=repr)
def test_what_is_no_model_in_a_package_is_refused(package: Path, content: bytes) -> None:
    (package / MODEL).write_bytes(content)
    for look in (check_file, open_session):
        with pytest.raises(UsageError, match=r"model\.mlpackage"):
            look(package)


@pytest.mark.parametrize("look", [check_file, open_session])
def test_what_is_not_there_is_refused(tmp_path: Path, look: Any) -> None:
    with pytest.raises(UsageError, match=r"gone\.mlpackage"):
        look(tmp_path / "gone.mlpackage")


def test_nobody_times_the_reference_interpreter() -> None:
    with pytest.raises(DeviceError, match="Apple devices"):
        measure(int8_package(), "local", PROTOCOLS["rapid"])


class Apple:
    """Stands for Apple's runtime: takes pictures, answers with a dictionary in an order of its own."""

    def __init__(self, behind: CoreMLSession) -> None:
        self.behind = behind

    def predict(self, feed: dict[str, Any]) -> dict[str, Any]:
        picture = np.asarray(feed["input"])
        assert picture.shape == (SHAPE[1], SHAPE[2], 3)
        (found,) = self.behind.run(picture.transpose(2, 0, 1)[None])
        pairs = sorted(zip(LABELS, map(float, found), strict=True))
        return {"classLabel": pairs[0][0], "classLabel_probs": dict(pairs)}


def test_apples_answer_is_put_in_label_order() -> None:
    plain, session = (CoreMLSession(int8_package(classifier=True)) for _ in range(2))
    session._model, session.invoke = Apple(plain), session._predict
    assert tuple(sorted(LABELS)) != LABELS
    np.testing.assert_array_equal(session.run(pixels(5)), plain.run(pixels(5)))


def test_pictures_are_grey_or_coloured() -> None:
    grey, coloured = _picture(pixels(1)[:, :1]), _picture(pixels(1))
    assert (grey.mode, coloured.mode) == ("L", "RGB")
    np.testing.assert_array_equal(np.asarray(grey), pixels(1)[0, 0])
    np.testing.assert_array_equal(np.asarray(coloured)[..., 2], pixels(1)[0, 2])


def test_token_ids_go_in_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, file = nn.Sequential(nn.Embedding(9, 4), nn.Flatten()).eval(), tmp_path / "text.mlpackage"
    export(model, torch.zeros(1, 3, dtype=torch.int32), file, Card("text", (), "logits", {"input": "token ids"}), False)
    tokens = np.array([[1, 8, 0], [2, 2, 5]], dtype=np.int32)
    session = CoreMLSession(file)
    assert session.encode(tokens).dtype == np.int32
    np.testing.assert_array_equal(session.run(session.encode(tokens)), predict(model, torch.from_numpy(tokens)))
    with pytest.raises(DeviceError, match=r"text\.mlpackage.*gather"):
        session.run(np.array([[1, 9, 0]], dtype=np.int32))


def test_the_card_of_the_small_students_is_in_the_file() -> None:
    assert CoreMLSession(float_package())._program.metadata == LOGITS.properties()
