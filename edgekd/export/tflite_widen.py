"""Float islands in a full-integer .tflite file, around operations that XNNPACK has in float alone."""

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekd.export.tflite_graph import add_tensor, op_of, operation, read, written

Op, Type = schema.BuiltinOperator, schema.TensorType

FLOAT_ONLY = (Op.GELU, Op.HARD_SWISH, Op.SOFTMAX, Op.RSQRT, Op.EXP, Op.LOG_SOFTMAX)
DEQUANTIZE_VERSION, QUANTIZE_VERSION = 2, 1


def widen(content: bytes) -> bytes:
    """Dequantize before such an operation and quantize behind it: the delegate takes it then, all in one piece.

    The scales are those that the tensors have already.
    """
    model = read(content)
    graph = model.subgraphs[0]
    narrow = [one for one in graph.operators if op_of(model, one) in FLOAT_ONLY and _is_int8(model, one)]
    for operator in narrow:
        source, result = int(operator.inputs[0]), int(operator.outputs[0])
        wide_source, wide_result = (add_tensor(model, one, Type.FLOAT32, None) for one in (source, result))
        operator.inputs = np.array([wide_source, *operator.inputs[1:]], dtype=np.int32)
        operator.outputs = np.array([wide_result], dtype=np.int32)
        place = graph.operators.index(operator)
        graph.operators[place : place + 1] = [
            operation(model, Op.DEQUANTIZE, DEQUANTIZE_VERSION, [source], wide_source),
            operator,
            operation(model, Op.QUANTIZE, QUANTIZE_VERSION, [wide_result], result),
        ]
    return written(model) if narrow else content


def _is_int8(model: Any, operator: Any) -> bool:
    return bool(model.subgraphs[0].tensors[operator.inputs[0]].type == Type.INT8)
