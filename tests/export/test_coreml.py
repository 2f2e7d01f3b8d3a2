import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgekd.errors import ExportError
from edgekd.export.card import Card
from edgekd.export.coreml import export
from edgekd.models.evaluate import predict
from edgekd.readers.coreml import read_graph, read_program
from edgekd.runtimes import open_session
from tests.export.packages import LABELS, LOGITS, MEAN, PROBABILITIES, STD, content, float_package, int8_package
from tests.export.small import SHAPE, quantized, samples, student

WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
TEXT = Card("text", ("no", "yes", "maybe"), "logits", {"input": "token ids"})
ops = torch.ops.quantized_decomposed


def specification(package: Path) -> Any:
    """What coremltools itself reads in a package."""
    return coremltools.models.MLModel(str(package), skip_model_load=True).get_spec()


def operations(package: Path) -> list[Any]:
    function = specification(package).mlProgram.functions["main"]
    return list(function.block_specializations[function.opset].operations)


def dtype(output: Any) -> str:
    return str(coremltools.proto.MIL_pb2.DataType.Name(output.type.tensorType.dataType))


def blobs(weights: bytes) -> list[tuple[int, int]]:
    """(dtype number, bytes) of every tensor in a weight file, found by its mark."""
    found, place = [], 64
    while (place := weights.find(b"\xef\xbe\xad\xde", place)) >= 0:
        kind, size = np.frombuffer(weights, np.uint32, 1, place + 4)[0], np.frombuffer(weights, np.uint64, 1, place + 8)
        found.append((int(kind), int(size[0])))
        place += 64
    return found


@pytest.mark.parametrize("half", [False, True])
def test_activations_are_quantized_and_weights_are_int8_in_the_file(half: bool) -> None:
    kinds = [operation.type for operation in operations(int8_package(half=half))]
    table = quantized().table
    activations = sum(entry.kind == "activation" for entry in table)
    assert kinds.count("quantize") == kinds.count("dequantize") == activations
    assert kinds.count("constexpr_affine_dequantize") == len(table) - activations
    sizes = [parameter.numel() for parameter in student().parameters() if parameter.ndim > 1]
    int8 = 4
    assert sorted(blobs(content(int8_package(half=half))[WEIGHTS])) == sorted((int8, size) for size in sizes)


def test_half_computes_in_float16_and_casts_nothing_but_the_ends() -> None:
    made = operations(int8_package(half=True))
    casts = [operation for operation in made if operation.type == "cast"]
    assert [operation.inputs["x"].arguments[0].name for operation in casts] == [
        "input",
        casts[1].inputs["x"].arguments[0].name,
    ]
    assert casts[1].outputs[0].name == "output"
    inner = [operation for operation in made if operation.type not in ("cast", "const", "quantize")]
    assert {dtype(operation.outputs[0]) for operation in inner} == {"FLOAT16"}
    scales = [operation.attributes["scale"] for operation in made if operation.type.startswith("constexpr")]
    assert {coremltools.proto.MIL_pb2.DataType.Name(one.type.tensorType.dataType) for one in scales} == {"FLOAT16"}


@pytest.mark.parametrize("half", [False, True])
def test_the_app_sees_an_image_and_float32_logits(half: bool) -> None:
    description = specification(int8_package(half=half)).description
    (source,), (sink,) = description.input, description.output
    image = source.type.imageType
    assert (source.name, image.width, image.height) == ("input", SHAPE[2], SHAPE[1])
    assert image.colorSpace == coremltools.proto.FeatureTypes_pb2.ImageFeatureType.RGB
    assert sink.name == "output"
    assert sink.type.multiArrayType.dataType == coremltools.proto.FeatureTypes_pb2.ArrayFeatureType.FLOAT32
    assert not description.predictedFeatureName


def test_probabilities_make_a_classifier() -> None:
    description = specification(int8_package(classifier=True)).description
    kinds = {entry.name: entry.type.WhichOneof("Type") for entry in description.output}
    assert kinds == {
        description.predictedFeatureName: "stringType",
        description.predictedProbabilitiesName: "dictionaryType",
    }
    (classify,) = (one for one in operations(int8_package(classifier=True)) if one.type == "classify")
    names = classify.inputs["classes"].arguments[0].value.immediateValue.list.values
    assert tuple(one.immediateValue.tensor.strings.values[0] for one in names) == LABELS


def test_a_package_says_what_its_card_says_and_no_more() -> None:
    metadata = specification(int8_package()).description.metadata
    assert dict(metadata.userDefined) == {**LOGITS.properties(), "edgekd.input": "pixels"}
    assert dict(specification(float_package()).description.metadata.userDefined) == LOGITS.properties()
    assert metadata.shortDescription == "small: logits of 4 classes"
    assert (metadata.author, metadata.license, metadata.versionString) == ("", "", "")


@pytest.mark.parametrize("half", [False, True])
def test_exporting_twice_gives_the_same_bytes(tmp_path: Path, half: bool) -> None:
    """The second comes from the same process, in which the converter goes on counting."""
    file, program = tmp_path / "again.mlpackage", quantized()
    export(program.frozen(stored=True), program.example, file, LOGITS, half, (MEAN, STD))
    export(program.frozen(stored=True), program.example, file, LOGITS, half, (MEAN, STD))
    assert content(file) == content(int8_package(half=half))


def test_opening_a_package_with_apples_tools_changes_nothing_in_it() -> None:
    before = content(int8_package())
    specification(int8_package())
    assert content(int8_package()) == before


def test_packages_that_differ_have_other_identifiers() -> None:
    manifests = [content(int8_package(half=half))["Manifest.json"] for half in (False, True)]
    assert manifests[0] != manifests[1]


def test_a_package_holds_no_place_and_no_machine() -> None:
    package = int8_package()
    assert sorted(content(package)) == ["Data/com.apple.CoreML/model.mlmodel", WEIGHTS, "Manifest.json"]
    for text in (str(package.parent), socket.gethostname(), str(Path.home())):
        assert not any(text.encode() in part for part in content(package).values()), text


class Grid(nn.Module):
    """A quantizer right behind the input, then as many sums as there are pixels."""

    def __init__(self, scale: float, zero_point: int) -> None:
        super().__init__()
        self.numbers = (scale, zero_point, -128, 127, torch.int8)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return ops.dequantize_per_tensor(ops.quantize_per_tensor(inputs, *self.numbers), *self.numbers).flatten(1)


@pytest.mark.parametrize(
    ("mean", "std"), [(0.0, 255.0), (128.0, 64.0), (127.5, 127.5), (33.3184, 78.5675), (123.675, 58.395), (255.0, 1.0)]
)
def test_every_pixel_value_becomes_its_own_int8_number(tmp_path: Path, mean: float, std: float) -> None:
    """In float32, and in float16 rounded after every operation, which is the least exact way to compute it."""
    scale = float(np.float32(1 / std))
    zero_point = round(mean - 0.1) - 128
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    card = Card("grid", ("a", "b"), "logits", {"input": "raw pixels", "mean": mean, "std": std})
    for half in (False, True):
        file = tmp_path / f"{half}.mlpackage"
        export(Grid(scale, zero_point), torch.zeros(1, 1, 16, 16), file, card, half, (mean, std))
        graph, constants = read_graph(file), read_program(file).constants
        (number,) = (one.index for one in graph.tensors if one.scale)
        real = open_session(file).tensors(pixels[0])[number]
        np.testing.assert_array_equal(
            np.round(real.ravel() / graph.tensors[number].scale[0]), np.arange(256) - 128 - zero_point
        )

        kind = np.float16 if half else np.float32
        value = pixels.ravel().astype(kind)
        if mean:
            value = value - constants["sub_0_y"]
        if "mul_0_y" in constants:
            value = value * constants["mul_0_y"]
        assert value.dtype == kind
        found = np.clip(np.round(value / constants["quantize_0_scale"]) + zero_point, -128, 127)
        np.testing.assert_array_equal(found, np.arange(256) - 128)


@pytest.mark.parametrize(("channels", "kind"), [(1, "imageType"), (2, "multiArrayType"), (3, "imageType")])
def test_pixels_of_any_channels_go_in_raw(tmp_path: Path, channels: int, kind: str) -> None:
    torch.manual_seed(0)
    model, file = nn.Sequential(nn.Conv2d(channels, 2, 3), nn.Flatten()).eval(), tmp_path / "model.mlpackage"
    card = Card("raw", ("a", "b"), "logits", {"input": "raw pixels", "mean": 100.0, "std": 50.0})
    export(model, torch.zeros(1, channels, 4, 4), file, card, half=False, pixels=(100.0, 50.0))
    assert specification(file).description.input[0].type.WhichOneof("Type") == kind
    pixels = np.random.default_rng(0).integers(0, 256, (5, channels, 4, 4), dtype=np.uint8)
    normalised = (torch.from_numpy(pixels.astype(np.float32)) - 100) / 50
    session = open_session(file)
    np.testing.assert_array_equal(session.encode(normalised.numpy()), pixels)
    np.testing.assert_allclose(session.run(session.encode(normalised.numpy())), predict(model, normalised), atol=1e-5)


def test_without_pixels_the_input_is_what_the_model_takes() -> None:
    description = specification(float_package()).description
    assert list(description.input[0].type.multiArrayType.shape) == [1, *SHAPE]
    session = open_session(float_package())
    np.testing.assert_allclose(
        session.run(session.encode(samples(10).numpy())), predict(student(), samples(10)), atol=1e-5
    )


class Layer(nn.Module):
    """A transformer's layer, written out or with torch's own attention."""

    def __init__(self, activation: Callable[[torch.Tensor], torch.Tensor], explicit: bool) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(16), nn.LayerNorm(16)
        self.mixed, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.activation, self.explicit = activation, explicit

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        heads = [part.view(1, 32, 2, 8).transpose(1, 2) for part in self.mixed(self.first(inputs)).chunk(3, -1)]
        query, key, value = heads
        if self.explicit:
            mixed = torch.softmax(query @ key.transpose(-1, -2) / 8**0.5, -1) @ value
        else:
            mixed = F.scaled_dot_product_attention(query, key, value)
        inputs = inputs + self.out(mixed.transpose(1, 2).reshape(1, 32, 16))
        return inputs + self.down(self.activation(self.up(self.second(inputs))))


class Transformer(nn.Module):
    def __init__(self, activation: Callable[[torch.Tensor], torch.Tensor], explicit: bool) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(50, 16), nn.Parameter(torch.randn(32, 16))
        self.layers = nn.Sequential(Layer(activation, explicit), Layer(activation, explicit))
        self.classifier = nn.Linear(16, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.layers(self.tokens(tokens) + self.places).mean(1))


def tanh_gelu(inputs: torch.Tensor) -> torch.Tensor:
    return F.gelu(8 * inputs, approximate="tanh")


@pytest.mark.parametrize(
    ("activation", "explicit", "half", "tolerance"),
    [
        (F.relu, True, False, 1e-5),
        (F.gelu, False, False, 1e-5),
        (tanh_gelu, True, False, 1e-5),
        (F.gelu, True, True, 5e-3),
    ],
    ids=["relu", "gelu", "tanh gelu", "half"],
)
def test_a_transformer_on_token_ids_is_the_torch_model(
    tmp_path: Path, activation: Callable[[torch.Tensor], torch.Tensor], explicit: bool, half: bool, tolerance: float
) -> None:
    torch.manual_seed(0)
    model, file = Transformer(activation, explicit).eval(), tmp_path / "text.mlpackage"
    export(model, torch.zeros(1, 32, dtype=torch.int32), file, TEXT, half)
    array = specification(file).description.input[0].type.multiArrayType
    assert array.dataType == coremltools.proto.FeatureTypes_pb2.ArrayFeatureType.INT32
    tokens = torch.randint(0, 50, (8, 32), dtype=torch.int32)
    expected = torch.cat([model(one[None]).detach() for one in tokens])
    session = open_session(file)
    found = session.run(session.encode(tokens.numpy()))
    assert np.ptp(expected.numpy(), axis=0).min() > 0.1
    np.testing.assert_allclose(found, expected, atol=tolerance)


class TwoForms(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return F.gelu(inputs) - F.gelu(inputs, approximate="tanh")


def test_both_forms_of_gelu_stay_apart(tmp_path: Path) -> None:
    file = tmp_path / "gelu.mlpackage"
    export(TwoForms(), torch.zeros(1, 101), file, TEXT, half=False)
    inputs = torch.linspace(-5, 5, 101)[None]
    expected = TwoForms()(inputs).numpy()
    assert np.abs(expected).max() > 1e-4
    np.testing.assert_allclose(open_session(file).run(inputs.numpy()), expected, atol=1e-6)


class SingularValues(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svd(inputs)[1]


class Wordless(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        raise ValueError


class Chosen(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs[inputs > 0]


@pytest.mark.parametrize(
    ("model", "words"), [(SingularValues(), "svd"), (Wordless(), "Wordless"), (Chosen(), "non_zero")], ids=str
)
def test_a_model_that_core_ml_cannot_hold_is_refused_in_one_line(tmp_path: Path, model: nn.Module, words: str) -> None:
    with pytest.raises(ExportError, match=words) as caught:
        export(model, torch.zeros(1, 4, 4), tmp_path / "model.mlpackage", LOGITS, half=False)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_package_before_it(tmp_path: Path) -> None:
    file = tmp_path / "model.mlpackage"
    export(nn.Flatten(), torch.zeros(1, 2, 2), file, LOGITS, half=False)
    before = content(file)
    with pytest.raises(ExportError):
        export(SingularValues(), torch.zeros(1, 4, 4), file, LOGITS, half=False)
    assert content(file) == before


@pytest.mark.parametrize(
    ("labels", "words"), [(("a", "b", "a", "c"), "same name"), (("a", "b"), "number of classes")], ids=["twice", "few"]
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, labels: tuple[str, ...], words: str) -> None:
    card = Card("small", labels, "probabilities", PROBABILITIES.preprocessing)
    with pytest.raises(ExportError, match=words):
        export(nn.Softmax(1), torch.zeros(1, 4), tmp_path / "model.mlpackage", card, half=False)
    assert list(tmp_path.iterdir()) == []
