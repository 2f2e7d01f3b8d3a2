"""What is done to the float student: every row of a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.compression.subjects import Compressed
from edgekd.compress.order import Shrinking
from edgekd.recipe import Factorize, Prune

FLOAT, PTQ, QAT, TAUGHT_QAT = "float student", "PTQ", "QAT", "QAT + distillation"
PTQ_4, QAT_4, TAUGHT_QAT_4 = (f"{name}, 4-bit weights" for name in (PTQ, QAT, TAUGHT_QAT))
HALF, HALF_INT8 = "pruned 50 %, distilled", "pruned 50 %, then int8"


@dataclass(frozen=True)
class Row:
    """cuts: in this order, each with its recovery. taught: recovery and QAT have the teacher beside the labels.

    form: what is made of the float student, by edgekd or by another tool. bits: of quantized weights.
    """

    name: str
    form: Literal["float", "ptq", "qat", "onnxruntime", "nncf", "ai-edge-quantizer", "torchao"]
    cuts: tuple[Shrinking, ...] = ()
    taught: bool = True
    bits: int = 8


QUANTIZED = (
    Row(FLOAT, "float"),
    Row(PTQ, "ptq"),
    Row(QAT, "qat", taught=False),
    Row(TAUGHT_QAT, "qat"),
    Row(PTQ_4, "ptq", bits=4),
    Row(QAT_4, "qat", taught=False, bits=4),
    Row(TAUGHT_QAT_4, "qat", bits=4),
)
OTHERS = (
    Row("ONNX Runtime, static PTQ", "onnxruntime"),
    Row("NNCF, PTQ", "nncf"),
    Row("ai-edge-quantizer, PTQ", "ai-edge-quantizer"),
    Row("torchao, QAT", "torchao", taught=False),
)


def rows(subject: Compressed) -> Sequence[Row]:
    """Those of quantization alone where the student is not to be cut."""
    if subject.cutting is None:
        return (*QUANTIZED, *OTHERS)
    recovery, rounds = subject.cutting.recovery, subject.cutting.rounds
    half, third = (Prune(kind="prune", macs=share, rounds=rounds, train=recovery) for share in (0.5, 0.3))
    thin = Factorize(kind="factorize", rank=subject.cutting.rank, train=recovery)
    return (
        *QUANTIZED,
        Row("pruned 50 %, labels", "float", (half,), taught=False),
        Row(HALF, "float", (half,)),
        Row("pruned 70 %, labels", "float", (third,), taught=False),
        Row("pruned 70 %, distilled", "float", (third,)),
        Row("low-rank, distilled", "float", (thin,)),
        Row(HALF_INT8, "qat", (half,)),
        Row("pruned 50 %, low-rank, then int8", "qat", (half, thin)),
        *OTHERS,
    )
