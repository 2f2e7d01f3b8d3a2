"""An .ort file without what no runtime reads, and with the same bytes from every conversion of the same model."""

from collections.abc import Callable
from typing import Any

import flatbuffers
from flatbuffers import number_types
from flatbuffers.table import Table

IDENTIFIER = b"ORTM"
LAYOUT = {
    name: kinds.split()
    for name, kinds in {
        "InferenceSession": "str Model - KernelTypes",
        "Model": "8 [OperatorSet] str str str 8 str Graph str [Property]",
        "OperatorSet": "str 8",
        "Property": "str str",
        "Graph": "[Tensor] [Value] [Node] 4 [NodeEdge] [str] [str] [SparseTensor] -",
        "Tensor": "str str [8] 4 [1] [str] 8",
        "SparseTensor": "Tensor Tensor [8]",
        "Value": "str str Type",
        "Type": "str 1 AnyType",
        "TensorType": "4 Shape",
        "SequenceType": "Type",
        "MapType": "4 Type",
        "Shape": "[Side]",
        "Side": "SideValue str",
        "SideValue": "1 8 str",
        "Node": "str str str 4 4 str 4 str [str] [str] [Attribute] [4] [str]",
        "Attribute": "str str 4 4 8 str Tensor Graph [4] [8] [str] [Tensor] [Graph]",
        "NodeEdge": "4 [12] [12]",
        "KernelTypes": "[OpTypes]",
        "OpTypes": "str [ArgumentTypes]",
        "ArgumentTypes": "str [Argument]",
        "Argument": "1 4",
    }.items()
}
"""The tables of the format: the kind of each field. A number is a plain value of so many bytes, 12 a struct of three;
a dash is a field that a fully optimised model does not have."""
ANY_TYPE = ("TensorType", "SequenceType", "MapType")
"""The tables that the last field of a Type may be, as its field before says, counted from 1."""
UNORDERED = {("Model", "[OperatorSet]"), ("Model", "[Property]"), ("Graph", "[Tensor]"), ("Graph", "[Value]"),
             ("Node", "[Attribute]")}  # fmt: skip
"""Vectors whose order means nothing; their entries start with a name."""
FLAGS: dict[str, Any] = {"1": number_types.Uint8Flags, "4": number_types.Uint32Flags, "8": number_types.Uint64Flags}
ALIGNMENT = {"1": 8, "4": 4, "8": 8, "12": 4}
"""Bytes; a vector of single bytes holds a constant, whose own values have up to 8."""

Fields = dict[int, Any]
"""The fields that a table has, by their place: a number, bytes, another table's fields, or a list of these."""


def pack(content: bytes) -> bytes:
    """The same model without the values that its optimised graph has no use for any more, equal parts stored once.

    Raises ValueError if the file has a field that is not known here.
    """
    root = Table(content, int.from_bytes(content[:4], "little"))
    return _Writer(len(content)).file(_read(root, "InferenceSession"))


def _read(table: Table, name: str) -> Fields:
    kinds, fields = LAYOUT[name], Fields()
    start = table.Pos - table.Get(number_types.SOffsetTFlags, table.Pos)
    slots = (table.Get(number_types.VOffsetTFlags, start) - 4) // 2
    for slot in range(slots):
        offset = table.Offset(4 + 2 * slot)
        if not offset:
            continue
        kind = kinds[slot] if slot < len(kinds) else "-"
        if kind == "-":
            raise ValueError(f"the file has a field {slot} of a {name}, which edgekd does not know")
        if kind == "AnyType":
            kind = ANY_TYPE[fields[slot - 1] - 1]
        fields[slot] = _value(table, offset, kind)
        if (name, kind) in UNORDERED:
            fields[slot].sort(key=lambda entry: entry.get(0, b""))
    return _without_unused(fields) if name == "Graph" else fields


def _value(table: Table, offset: int, kind: str) -> Any:
    place = table.Pos + offset
    if kind in FLAGS:
        return table.Get(FLAGS[kind], place)
    if not kind.startswith("["):
        return _pointed(table, place, kind)
    kind, start, count = kind[1:-1], table.Vector(offset), table.VectorLen(offset)
    if kind in ALIGNMENT:
        return bytes(table.Bytes[start : start + count * int(kind)])
    return [_pointed(table, start + 4 * entry, kind) for entry in range(count)]


def _pointed(table: Table, place: int, kind: str) -> Any:
    return table.String(place) if kind == "str" else _read(Table(table.Bytes, table.Indirect(place)), kind)


def _without_unused(graph: Fields) -> Fields:
    """The optimiser leaves behind a value for each tensor of the graph that it started from."""
    used = {*graph.get(5, ()), *graph.get(6, ()), *(tensor[0] for tensor in graph.get(0, ()))}
    for node in graph.get(2, ()):
        used.update(*(node.get(slot, ()) for slot in (8, 9, 12)))
    return {**graph, 1: [value for value in graph.get(1, ()) if value[0] in used]}


class _Writer:
    """Writes tables behind each other; what was written before is pointed at instead of being written again."""

    def __init__(self, size: int) -> None:
        self.builder = flatbuffers.Builder(size)
        self.written: dict[Any, int] = {}

    def file(self, session: Fields) -> bytes:
        self.builder.Finish(self.table("InferenceSession", session), IDENTIFIER)
        return bytes(self.builder.Output())

    def once(self, what: Any, write: Callable[[], int]) -> int:
        if what not in self.written:
            self.written[what] = write()
        return self.written[what]

    def table(self, name: str, fields: Fields) -> int:
        kinds = [ANY_TYPE[fields[1] - 1] if kind == "AnyType" else kind for kind in LAYOUT[name]]
        plain = {
            slot: value if kinds[slot] in FLAGS else self.pointed(kinds[slot], value) for slot, value in fields.items()
        }

        def write() -> int:
            self.builder.StartObject(len(kinds))
            for slot in sorted(plain, key=lambda slot: kinds[slot] == "8"):
                if kinds[slot] in FLAGS:
                    self.builder.Prepend(FLAGS[kinds[slot]], plain[slot])
                else:
                    self.builder.PrependUOffsetTRelative(plain[slot])
                self.builder.Slot(slot)
            return int(self.builder.EndObject())

        return self.once((name, *plain.items()), write)

    def pointed(self, kind: str, value: Any) -> int:
        """Where a string, a table or a vector is."""
        if kind == "str":
            return int(self.builder.CreateSharedString(value))
        if not kind.startswith("["):
            return self.table(kind, value)
        kind = kind[1:-1]
        if kind in ALIGNMENT:
            return self.once((kind, value), lambda: self.plain_vector(kind, value))
        entries = tuple(self.pointed(kind, entry) for entry in value)
        return self.once(("[]", entries), lambda: self.vector(entries))

    def plain_vector(self, kind: str, content: bytes) -> int:
        count = len(content) // int(kind)
        self.builder.StartVector(int(kind), count, ALIGNMENT[kind])
        self.builder.head = self.builder.head - len(content)
        self.builder.Bytes[self.builder.head : self.builder.head + len(content)] = content
        return int(self.builder.EndVector())

    def vector(self, entries: tuple[int, ...]) -> int:
        self.builder.StartVector(4, len(entries), 4)
        for entry in reversed(entries):
            self.builder.PrependUOffsetTRelative(entry)
        return int(self.builder.EndVector())
