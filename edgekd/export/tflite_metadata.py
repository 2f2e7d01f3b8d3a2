"""A .tflite file that says what it is: the standard metadata, read by Android Studio and the Task Library.

The metadata is a flatbuffer of its own (file identifier M001) in a buffer of the model; the files that it names are a
zip archive behind the model.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekd import __version__
from edgekd.errors import ExportError
from edgekd.export.card import Card
from edgekd.export.tflite_pack import pack

LABELS, PREPROCESSING = "labels.txt", "preprocessing.json"
ENTRY = b"TFLITE_METADATA"
IDENTIFIER = b"M001"
MIN_PARSER_VERSION = "1.0.0"
IMAGE_DIMENSIONS = 4

Table = Mapping[int, Any]
"""Fields of a table by their number in the schema: str, int (an enumeration), list of float, Table, list of Table."""

FILE_DESCRIPTION, FILE_AXIS_LABELS = 1, 2
FEATURE, IMAGE = 1, 2
NORMALIZATION = 1
COLOR_SPACES = {3: 1, 1: 2}
"""Channels -> RGB or grey."""


def with_metadata(content: bytes, card: Card) -> bytes:
    """The model with its card in the file; the labels and the preprocessing lie in it as files too.

    To be done last: whatever rewrites the model drops the files behind it.
    Raises ExportError if the labels do not fit the output, or a label has more than one line.
    """
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    graph = model.subgraphs[0]
    inputs, outputs = ([graph.tensors[index] for index in indices] for indices in (graph.inputs, graph.outputs))
    if card.labels:
        _check_labels(card.labels, outputs)
    entry = schema.MetadataT()
    entry.name, entry.buffer = ENTRY, len(model.buffers)
    model.metadata = [*(model.metadata or []), entry]
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(_flatbuffer(_model(card, inputs, outputs)), dtype=np.uint8)
    model.buffers.append(buffer)
    files = {LABELS: "".join(f"{label}\n" for label in card.labels)} if card.labels else {}
    return _with_files(pack(model), {**files, PREPROCESSING: card.properties()["edgekd.preprocessing"]})


def _check_labels(labels: Sequence[str], outputs: Sequence[Any]) -> None:
    broken = next((label for label in labels if len(f"{label}.".splitlines()) > 1), None)
    if broken is not None:
        raise ExportError(f"TFLite metadata: label {broken!r} has more than one line; {LABELS} has one a label")
    for output in outputs:
        if output.shape[-1] != len(labels):
            raise ExportError(f"TFLite metadata: {len(labels)} labels for an output of {output.shape[-1]} numbers")


def _model(card: Card, inputs: Sequence[Any], outputs: Sequence[Any]) -> Table:
    graph = {2: [_input(card, tensor) for tensor in inputs], 3: [_output(card) for _ in outputs]}
    return {0: card.name, 1: f"Made by edgekd {__version__}", 3: [graph], 7: MIN_PARSER_VERSION}


def _input(card: Card, tensor: Any) -> Table:
    kind = card.preprocessing["input"]
    common: Table = {1: f"{kind}; see {PREPROCESSING}", 6: [{0: PREPROCESSING, 2: FILE_DESCRIPTION}]}
    if kind != "raw pixels" or len(tensor.shape) != IMAGE_DIMENSIONS:
        return {0: "input", 3: {0: FEATURE, 1: {}}, **common}
    normalization = {place: _numbers(card.preprocessing[name]) for place, name in enumerate(("mean", "std"))}
    color_space = COLOR_SPACES.get(int(tensor.shape[-1]), 0)
    return {0: "image", 3: {0: IMAGE, 1: {0: color_space}}, 4: [{0: NORMALIZATION, 1: normalization}], **common}


def _output(card: Card) -> Table:
    labels = {6: [{0: LABELS, 2: FILE_AXIS_LABELS}]} if card.labels else {}
    return {0: card.output, 3: {0: FEATURE, 1: {}}, **labels}


def _numbers(value: Any) -> list[float]:
    return [float(number) for number in np.atleast_1d(value)]


def _flatbuffer(root: Table) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(_table(builder, root), IDENTIFIER)
    return bytes(builder.Output())


def _table(builder: flatbuffers.Builder, fields: Table) -> int:
    offsets = {place: _offset(builder, value) for place, value in fields.items() if not isinstance(value, int)}
    builder.StartObject(max(fields, default=-1) + 1)
    for place, value in fields.items():
        if place in offsets:
            builder.PrependUOffsetTRelativeSlot(place, offsets[place], 0)
        else:
            builder.PrependInt8Slot(place, value, 0)
    return int(builder.EndObject())


def _offset(builder: flatbuffers.Builder, value: Any) -> int:
    if isinstance(value, str):
        return int(builder.CreateSharedString(value))
    if isinstance(value, Mapping):
        return _table(builder, value)
    if isinstance(value[0], float):
        return int(builder.CreateNumpyVector(np.asarray(value, dtype=np.float32)))
    tables = [_table(builder, one) for one in value]
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    return int(builder.EndVector())


def _with_files(content: bytes, files: Mapping[str, str]) -> bytes:
    """Appended uncompressed, because the Task Library reads them in place, and the same bytes every time."""
    stream = io.BytesIO(content)
    with zipfile.ZipFile(stream, "a") as archive:
        for name, text in files.items():
            entry = zipfile.ZipInfo(name)
            entry.create_system = 0
            archive.writestr(entry, text)
    return stream.getvalue()
