import dataclasses
import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from edgekd.errors import ExportError
from edgekd.export.card import Card
from edgekd.export.tflite_metadata import with_metadata
from edgekd.readers.tflite import read_graph
from edgekd.runtimes.litert import LiteRTSession
from tests.export.small import bare_content, bare_float_content
from tests.export.test_tflite import data_positions, int8_noise, run

PIXELS = Card("shapes", ("a", "b", "c", "d"), "logits", {"input": "raw pixels", "mean": 128, "std": 64})
SOUND = Card("words", ("yes", "no", "ja", "nein"), "probabilities", {"input": "log-mel features", "mean": -4.5})


FILE = {"name": 0, "description": 1, "type": (2, "<b")}
TENSOR = {
    "name": 0,
    "description": 1,
    "content": (3, {"type": (0, "<B"), "properties": (1, {"color_space": (0, "<b")})}),
    "process_units": (4, [{"type": (0, "<B"), "options": (1, {"mean": (0, ["<f"]), "std": (1, ["<f"])})}]),
    "files": (6, [FILE]),
}
MODEL = {
    "name": 0,
    "description": 1,
    "subgraphs": (3, [{"inputs": (2, [TENSOR]), "outputs": (3, [TENSOR])}]),
    "min_parser_version": 7,
}
"""The metadata schema: field name -> number, or (number, layout)."""


def number(content: bytes, place: int, code: str = "<I") -> Any:
    return struct.unpack_from(code, content, place)[0]


def walk(content: bytes, place: int, layout: Any) -> Any:
    """What a flatbuffer holds at an offset field (text, table, vector) or a number's place."""
    if isinstance(layout, str):
        return number(content, place, layout)
    target = place + number(content, place)
    if layout is None:
        return content[target + 4 : target + 4 + number(content, target)].decode()
    if isinstance(layout, list):
        count = number(content, target)
        return [walk(content, target + 4 + 4 * position, layout[0]) for position in range(count)]
    vtable = target - number(content, target, "<i")
    found = {}
    for name, kind in layout.items():
        slot, inner = kind if isinstance(kind, tuple) else (kind, None)
        entry = 4 + 2 * slot
        offset = number(content, vtable + entry, "<H") if entry < number(content, vtable, "<H") else 0
        if offset:
            found[name] = walk(content, target + offset, inner)
    return found


def metadata(content: bytes) -> dict[str, Any]:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    (entry,) = [entry for entry in model.metadata if entry.name == b"TFLITE_METADATA"]
    inner = bytes(model.buffers[entry.buffer].data)
    assert inner[4:8] == b"M001"
    return walk(inner, 0, MODEL)


def archive(content: bytes) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(content))


def test_pixels_are_an_image_with_its_normalization() -> None:
    found = metadata(with_metadata(bare_content(), PIXELS))
    ((graph,), name) = found["subgraphs"], found["name"]
    (source,), (sink,) = graph["inputs"], graph["outputs"]
    assert name == "shapes"
    assert "edgekd" in found["description"]
    assert found["min_parser_version"] == "1.0.0"
    assert source["content"] == {"type": 2, "properties": {"color_space": 1}}
    assert source["process_units"] == [{"type": 1, "options": {"mean": [128.0], "std": [64.0]}}]
    assert "raw pixels" in source["description"]
    assert source["files"] == [{"name": "preprocessing.json", "type": 1}]
    assert sink["name"] == "logits"
    assert sink["content"]["type"] == 1
    assert sink["files"] == [{"name": "labels.txt", "type": 2}]


def test_each_channel_can_have_its_own_normalization() -> None:
    numbers = {"mean": [123.675, 116.28, 103.53], "std": (58.0, 57.0, 57.5)}
    card = dataclasses.replace(PIXELS, preprocessing={"input": "raw pixels", **numbers})
    (source,) = metadata(with_metadata(bare_float_content(), card))["subgraphs"][0]["inputs"]
    options = source["process_units"][0]["options"]
    np.testing.assert_array_equal(options["mean"], np.float32(numbers["mean"]))
    np.testing.assert_array_equal(options["std"], np.float32(numbers["std"]))


def test_features_are_not_normalized_by_the_app() -> None:
    (graph,) = metadata(with_metadata(bare_content(), SOUND))["subgraphs"]
    (source,), (sink,) = graph["inputs"], graph["outputs"]
    assert source["content"] == {"type": 1, "properties": {}}
    assert "process_units" not in source
    assert "log-mel features" in source["description"]
    assert sink["name"] == "probabilities"


def test_the_files_are_in_the_file() -> None:
    files = archive(with_metadata(bare_content(), SOUND))
    assert files.testzip() is None
    assert files.read("labels.txt").decode().splitlines() == ["yes", "no", "ja", "nein"]
    assert json.loads(files.read("preprocessing.json")) == SOUND.preprocessing


def test_labels_keep_their_letters() -> None:
    card = dataclasses.replace(PIXELS, labels=("Käse", "猫", "a, b", ""))
    assert archive(with_metadata(bare_content(), card)).read("labels.txt").decode().split("\n")[:-1] == [*card.labels]


def test_the_files_can_be_read_in_place() -> None:
    content = with_metadata(bare_content(), PIXELS)
    for entry in archive(content).infolist():
        assert entry.compress_type == zipfile.ZIP_STORED
        start = entry.header_offset + 30 + len(entry.filename)
        assert content[start : start + entry.file_size] == archive(content).read(entry)


def test_the_bytes_do_not_depend_on_the_clock() -> None:
    content = with_metadata(bare_content(), PIXELS)
    assert content == with_metadata(bare_content(), PIXELS)
    assert {entry.date_time for entry in archive(content).infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_without_classes_there_are_no_labels() -> None:
    content = with_metadata(bare_content(), dataclasses.replace(PIXELS, labels=()))
    assert archive(content).namelist() == ["preprocessing.json"]
    assert "files" not in metadata(content)["subgraphs"][0]["outputs"][0]


def test_it_is_still_the_same_model(tmp_path: Path) -> None:
    content, file, plain = with_metadata(bare_content(), PIXELS), tmp_path / "model.tflite", tmp_path / "plain.tflite"
    file.write_bytes(content)
    plain.write_bytes(bare_content())
    np.testing.assert_array_equal(run(content, int8_noise()), run(bare_content(), int8_noise()))
    assert LiteRTSession(file).placement() == LiteRTSession(plain).placement()
    assert Interpreter(str(file)).get_input_details()[0]["name"] == "input"
    before, after = read_graph(plain), read_graph(file)
    assert after.nodes == before.nodes
    for one, other in zip(before.tensors, after.tensors, strict=True):
        assert (one.name, one.shape, one.dtype, one.scale, one.zero_point) == (
            other.name,
            other.shape,
            other.dtype,
            other.scale,
            other.zero_point,
        )
        np.testing.assert_array_equal(one.constant, other.constant)


def test_tensor_data_stays_aligned() -> None:
    positions = list(data_positions(with_metadata(bare_content(), PIXELS)))
    assert len(positions) > 5
    assert [position for position in positions if position % 16] == []


@pytest.mark.parametrize("content", [bare_content, bare_float_content])
def test_it_is_less_than_a_kilobyte(content: Callable[[], bytes]) -> None:
    assert 0 < len(with_metadata(content(), PIXELS)) - len(content()) < 900


@pytest.mark.parametrize("labels", [("a", "b", "c"), ("a", "b", "c", "d", "e")])
def test_labels_that_do_not_fit_the_output_are_refused(labels: tuple[str, ...]) -> None:
    with pytest.raises(ExportError, match=f"{len(labels)} labels for an output of 4"):
        with_metadata(bare_content(), dataclasses.replace(PIXELS, labels=labels))


@pytest.mark.parametrize("label", ["two\nlines", "end\r", "\n", "two\u2028lines"])
def test_a_label_of_more_than_one_line_is_refused(label: str) -> None:
    with pytest.raises(ExportError, match="more than one line") as caught:
        with_metadata(bare_content(), dataclasses.replace(PIXELS, labels=("a", label, "c", "d")))
    assert "\n" not in str(caught.value)
