"""What edgekd does to an IR between the converter and the file."""

import json
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino
import pytest

from edgekd import __version__
from edgekd.export import onnx
from edgekd.export.formats import export_float, export_program
from edgekd.runtimes import open_session
from tests.export import small
from tests.export.small import FEATURES, PIXELS, quantized, samples, student
from tests.export.small_text import text_file, text_quantized


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.exported(tmp_path_factory.mktemp("export"), "openvino")


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the converter alone writes."""
    folder = tmp_path_factory.mktemp("converted")
    model = quantized().frozen(stored=True, unsigned=True)
    onnx.export(model, quantized().example, folder / "model.onnx", "int8", FEATURES)
    openvino.save_model(openvino.convert_model(str(folder / "model.onnx")), str(folder / "model.xml"), False)
    return folder / "model.xml"


def layers(file: Path, kind: str) -> list[ElementTree.Element]:
    return [layer for layer in ElementTree.parse(file).iter("layer") if layer.attrib["type"] == kind]


def size(file: Path) -> int:
    return file.stat().st_size + file.with_suffix(".bin").stat().st_size


def answers(file: Path) -> np.ndarray:
    session = open_session(file)
    return session.run(session.encode(samples().numpy()))


def test_no_number_is_another_for_being_smaller(file: Path, converted: Path) -> None:
    np.testing.assert_array_equal(answers(file), answers(converted))
    assert size(file) < 0.8 * size(converted)


def test_equal_constants_are_there_once(file: Path) -> None:
    binary = file.with_suffix(".bin").read_bytes()
    contents = Counter()
    for layer in layers(file, "Const"):
        data = layer.find("data").attrib
        start = int(data["offset"])
        contents[data["element_type"], data["shape"], binary[start : start + int(data["size"])]] += 1
    assert len(contents) > 10
    assert set(contents.values()) == {1}


def test_a_range_is_two_plain_numbers_that_go_in_and_come_out(file: Path) -> None:
    ranges = layers(file, "FakeQuantize")
    assert len(ranges) >= sum(entry.kind == "activation" for entry in quantized().table) - 1
    for layer in ranges:
        ends = layer.findall("input/port")[1:]
        assert [end.findall("dim") for end in ends] == [[]] * 4


def test_what_a_card_says_stays_as_it_is(tmp_path: Path) -> None:
    labels = ("<a>   <b>", "a > b", "two\nlines", "é & ü")
    card = replace(FEATURES, labels=labels)
    file = export_program(quantized(), "openvino", "int8", tmp_path, card)
    said = openvino.Core().read_model(str(file)).get_rt_info(["edgekd", "labels"]).value
    assert said == card.properties()["edgekd.labels"]


def properties(file: Path) -> dict[str, str]:
    """What the XML says under the name of edgekd, read without OpenVINO."""
    (own,) = ElementTree.parse(file).getroot().findall("rt_info/edgekd")
    return {entry.tag: entry.attrib["value"] for entry in own}


@pytest.mark.parametrize("precision", ["int8", "float16"])
def test_the_xml_says_what_the_card_says(precision: str, tmp_path: Path) -> None:
    labels = ("<north>", "two\nlines", "Käse, 猫", "")
    card = replace(PIXELS, labels=labels)
    if precision == "int8":
        file = export_program(quantized(), "openvino", "int8", tmp_path, card)
    else:
        file = export_float(student(), quantized().example, "openvino", "float16", tmp_path, card)
    found = properties(file)
    assert found.keys() == {"version", "name", "output", "outputs", "labels", "preprocessing"}
    assert (found["version"], found["name"], found["output"]) == (__version__, "student", "logits")
    assert json.loads(found["labels"]) == list(labels)
    assert json.loads(found["preprocessing"]) == PIXELS.preprocessing


def test_probabilities_are_called_so(tmp_path: Path) -> None:
    file = export_program(quantized(), "openvino", "int8", tmp_path, replace(FEATURES, output="probabilities"))
    assert properties(file)["output"] == "probabilities"


def test_a_looked_up_row_is_dequantized_by_the_scale_of_its_table(tmp_path: Path) -> None:
    file = text_file(tmp_path, "text_cnn", "openvino", "int8")
    entry = next(entry for entry in text_quantized("text_cnn").table if entry.tensor == "tokens.weight")
    after = dict(edges(file))
    (gather,) = layers(file, "Gather")
    convert = after[gather.attrib["id"]]
    multiply = after[convert]
    kinds = {layer.attrib["id"]: layer.attrib["type"] for layer in ElementTree.parse(file).iter("layer")}
    assert [kinds[one] for one in (convert, multiply, after[multiply])] == ["Convert", "Multiply", "FakeQuantize"]
    (scale,) = (source for source, target in edges(file) if target == multiply and kinds[source] == "Const")
    data = next(layer for layer in layers(file, "Const") if layer.attrib["id"] == scale).find("data").attrib
    start = int(data["offset"])
    assert file.with_suffix(".bin").read_bytes()[start : start + 4] == np.float32(entry.scale[0]).tobytes()


def edges(file: Path) -> list[tuple[str, str]]:
    return [(edge.attrib["from-layer"], edge.attrib["to-layer"]) for edge in ElementTree.parse(file).iter("edge")]
