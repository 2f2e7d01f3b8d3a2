"""What edgekd does to an IR between the converter and the file."""

import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino
import pytest

from edgekd.export import onnx
from edgekd.export.formats import export_program
from edgekd.runtimes import open_session
from tests.export.small import FEATURES, quantized, samples


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_program(quantized(), "openvino", "int8", tmp_path_factory.mktemp("export"), FEATURES)


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
