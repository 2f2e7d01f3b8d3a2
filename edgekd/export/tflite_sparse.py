"""Weights that are mostly zeros, stored in a .tflite file without the zeros."""

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekd.export.tflite_graph import add_tensor, float_constants, op_of, operation, read, set_constant, written

ENOUGH = 2 / 3
"""The share of zeros, over all 1x1 convolutions, from which XNNPACK leaves them out."""
DENSIFY_VERSION = 1
INDICES = (
    (np.uint8, schema.SparseIndexVector.Uint8Vector, schema.Uint8VectorT),
    (np.uint16, schema.SparseIndexVector.Uint16Vector, schema.Uint16VectorT),
    (np.int32, schema.SparseIndexVector.Int32Vector, schema.Int32VectorT),
)
"""How positions are stored: in the first of these that holds the largest."""

Op, Type, Dimension = schema.BuiltinOperator, schema.TensorType, schema.DimensionType


def store_sparse(content: bytes) -> bytes:
    """Store the float32 weights of 1x1 convolutions as those that are not zero, and where they are.

    They are read through DENSIFY. On ARM, XNNPACK then multiplies only by what is stored, in a network that begins with
    a 3x3 convolution of stride 2 on three channels, goes on with 1x1 and depthwise convolutions and what works on each
    number alone, and ends in a mean over all positions (Elsen et al. 2019, "Fast Sparse ConvNets"). Anywhere else the
    weights become dense when the file is loaded: the file is smaller, and no faster. The numbers are the same.

    With fewer zeros than ENOUGH the content comes back as it is.
    """
    model = read(content)
    constants, graph = dict(float_constants(model)), model.subgraphs[0]
    weights = {int(one.inputs[1]) for one in graph.operators if op_of(model, one) == Op.CONV_2D}
    found = {index: constants[index] for index in sorted(weights & constants.keys()) if _is_pointwise(constants[index])}
    zeros, total = (sum(count(one) for one in found.values()) for count in (_zeros, np.size))
    if not total or zeros < ENOUGH * total:
        return content
    for index, values in found.items():
        if not values.any():  # DENSIFY takes no constant without data
            continue
        stored = add_tensor(model, index, Type.FLOAT32, None)
        graph.tensors[stored].sparsity = _rows(values)
        set_constant(model, graph.tensors[stored], values[values != 0])
        graph.tensors[index].buffer = 0
        place = next(place for place, user in enumerate(graph.operators) if index in user.inputs)
        graph.operators.insert(place, operation(model, Op.DENSIFY, DENSIFY_VERSION, [stored], index))
    return written(model)


def _is_pointwise(values: np.ndarray) -> bool:
    return values.shape[1:3] == (1, 1)


def _zeros(values: np.ndarray) -> int:
    return int((values == 0).sum())


def _rows(values: np.ndarray) -> Any:
    """Where the numbers of a weight (outputs, 1, 1, inputs) are: only the inputs are left out, in compressed rows."""
    rows = values.reshape(len(values), -1) != 0
    parameters = schema.SparsityParametersT()
    parameters.traversalOrder = np.arange(values.ndim, dtype=np.int32)
    parameters.dimMetadata = []
    for side in values.shape[:-1]:
        dense = schema.DimensionMetadataT()
        dense.format, dense.denseSize = Dimension.DENSE, side
        parameters.dimMetadata.append(dense)
    inputs = schema.DimensionMetadataT()
    inputs.format = Dimension.SPARSE_CSR
    inputs.arraySegmentsType, inputs.arraySegments = _positions(np.cumsum([0, *rows.sum(axis=1)]))
    inputs.arrayIndicesType, inputs.arrayIndices = _positions(np.nonzero(rows)[1])
    parameters.dimMetadata.append(inputs)
    return parameters


def _positions(values: np.ndarray) -> tuple[int, Any]:
    largest = values.max(initial=0)
    dtype, kind, vector = next(one for one in INDICES if largest <= np.iinfo(one[0]).max)
    stored = vector()
    stored.values = values.astype(dtype)
    return kind, stored
