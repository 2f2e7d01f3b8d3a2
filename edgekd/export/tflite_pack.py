"""A .tflite file without what the runtime does not need."""

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

BUFFER_ALIGNMENT = 16
"""Bytes; what the schema asks for tensor data, so that a mapped file can be used in place."""


class _AlignedBuffer(schema.BufferT):  # type: ignore[misc]
    """The generated packer writes byte vectors unaligned."""

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802 - the schema's own name
        data = None if self.data is None else _aligned_vector(builder, self.data)
        schema.BufferStart(builder)
        if data is not None:
            schema.BufferAddData(builder, data)
        return int(schema.BufferEnd(builder))


class _SharingBuilder(flatbuffers.Builder):  # type: ignore[misc]
    """Equal vectors of numbers are in the file once: shapes, and the zero points of all channels."""

    def __init__(self) -> None:
        super().__init__(1 << 16)
        self._offsets: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: np.ndarray) -> int:  # noqa: N802 - the library's own name
        key = (x.dtype.str, x.tobytes())
        if key not in self._offsets:
            self._offsets[key] = int(super().CreateNumpyVector(x))
        return self._offsets[key]


def foreign_ops(content: bytes) -> list[str]:
    """Operations that the converter wrote although TFLite has no kernel for them: custom and StableHLO ones."""
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    found = set()
    for code in model.operatorCodes:
        name = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
        if name == "CUSTOM":
            found.add(code.customCode.decode() if code.customCode else name)
        elif name.startswith("STABLEHLO_"):
            found.add(name)
    return sorted(found)


def slim(content: bytes) -> bytes:
    """The same model with short names: inputs, outputs and the signature keep one, inner tensors have none.

    Also dropped: empty quantization records, metadata of the converter, buffers that nothing reads, and copies of
    identical ones.
    """
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    model.description = None
    _drop_converter_metadata(model)
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            tensor.name = None
            if tensor.quantization is not None and tensor.quantization.scale is None:
                tensor.quantization = None
        _name(subgraph, subgraph.inputs, "input")
        _name(subgraph, subgraph.outputs, "output")
    for signature in model.signatureDefs or []:
        for kind, entries in (("input", signature.inputs), ("output", signature.outputs)):
            for position, entry in enumerate(entries):
                entry.name = _numbered(kind, position, len(entries))
    _share_buffers(model)
    return pack(model)


def pack(model: Any) -> bytes:
    """A schema object as a file, tensor data aligned."""
    for buffer in model.buffers:
        buffer.__class__ = _AlignedBuffer
    builder = _SharingBuilder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _name(subgraph: Any, indices: Any, kind: str) -> None:
    for position, index in enumerate(indices):
        subgraph.tensors[index].name = _numbered(kind, position, len(indices))


def _numbered(kind: str, position: int, count: int) -> str:
    return kind if count == 1 else f"{kind}_{position}"


def _drop_converter_metadata(model: Any) -> None:
    kept = [entry for entry in model.metadata or [] if entry.name == b"min_runtime_version"]
    model.metadata = kept or None


def _share_buffers(model: Any) -> None:
    """Keep one buffer per content. Buffer 0 is the empty one, which every tensor without data refers to."""
    readers = [tensor for subgraph in model.subgraphs for tensor in subgraph.tensors] + (model.metadata or [])
    buffers, positions, moved = [model.buffers[0]], {b"": 0}, {}
    for index in sorted({reader.buffer for reader in readers}):
        buffer = model.buffers[index]
        content = b"" if buffer.data is None else np.asarray(buffer.data, dtype=np.uint8).tobytes()
        if content not in positions:
            positions[content] = len(buffers)
            buffers.append(buffer)
        moved[index] = positions[content]
    for reader in readers:
        reader.buffer = moved[reader.buffer]
    model.buffers = buffers


def _aligned_vector(builder: flatbuffers.Builder, data: Any) -> int:
    content = np.asarray(data, dtype=np.uint8).tobytes()
    builder.StartVector(1, len(content), BUFFER_ALIGNMENT)
    builder.head = builder.head - len(content)
    builder.Bytes[builder.head : builder.head + len(content)] = content
    return int(builder.EndVector())
