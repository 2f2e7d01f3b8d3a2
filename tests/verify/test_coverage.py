"""What a file makes a runtime do that its source does not ask for, on graphs by hand and on exported students."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.errors import GateError
from edgekd.readers import read_graph
from edgekd.readers.graph import FileGraph, FileNode, FileTensor
from edgekd.runtimes.session import Placement
from edgekd.target import CoverageLimits, Format
from edgekd.verify.coverage import (
    Coverage,
    asked_transposes,
    check_coverage,
    coverage,
    float_islands,
    stray_transposes,
)
from tests.export.small import CARDS, exported
from tests.export.small_text import ARCHITECTURES, text_file, text_quantized, text_student

FORMATS: tuple[Format, ...] = ("tflite", "onnx", "openvino")
CONSTANTS = {"const": "float32", "const8": "int8", "const32": "int32"}


def graph(*lines: str) -> FileGraph:
    """A graph from lines such as `x:int8* w:const8 -> CONV -> y`.

    A name is followed by its dtype (float32 where none is said) the first time it is there; `*` is a tensor with a
    scale, `const` a float constant, `const8` and `const32` integer ones with a scale.
    """
    tensors: dict[str, FileTensor] = {}

    def index(word: str) -> int:
        name, _, said = word.partition(":")
        if name not in tensors:
            dtype = CONSTANTS.get(said, said.strip("*") or "float32")
            constant = np.ones(1, dtype=dtype) if said in CONSTANTS else None
            scale = (np.float32(0.5),) if said.endswith("*") or said in ("const8", "const32") else ()
            tensors[name] = FileTensor(len(tensors), name, (1,), dtype, constant, scale, (0,) * len(scale))
        return tensors[name].index

    nodes = []
    for line in lines:
        inputs, op, outputs = (part.strip() for part in line.split("->"))
        nodes.append(FileNode(op, tuple(map(index, inputs.split())), tuple(map(index, outputs.split()))))
    first, last = nodes[0].inputs[0], nodes[-1].outputs[-1]
    return FileGraph(tuple(tensors.values()), tuple(nodes), (first,), (last,))


NO_ISLANDS: dict[str, Sequence[str]] = {
    "integers all the way": ("x:int8* w:const8 b:const32 -> CONV_2D -> y:int8*", "y -> SOFTMAX -> z:int8*"),
    "float at both ends": ("x -> QUANTIZE -> q:int8*", "q w:const8 -> CONV_2D -> y:int8*", "y -> DEQUANTIZE -> z"),
    "moved integers": ("x:int8* w:const8 -> CONV_2D -> y:int8*", "y s:int32 -> RESHAPE -> z:int8*"),
    "pixels alone": ("x:uint8* -> Convert -> a", "a m:const -> Subtract -> b", "b s:const -> Multiply -> c",
                     "c w:const -> Convolution -> y"),
    "a float model": ("x w:const -> CONV_2D -> y", "y -> SOFTMAX -> z"),
    "int8 weights alone": ("w:const8 -> DEQUANTIZE -> v", "x v -> CONV_2D -> y", "y -> SOFTMAX -> z"),
    "int8 rows alone": ("i:int32 t:const8 -> GATHER -> r:int8*", "r -> DEQUANTIZE -> f", "f w:const -> MATMUL -> y"),
    "a quantized bias alone": ("x w:const b:const32 -> CONV_2D -> y",),
    "quantizers around a product": (
        "x:uint8* -> DequantizeLinear -> a", "w:const8 -> DequantizeLinear -> v", "a v -> MatMul -> p",
        "p -> QuantizeLinear -> y:uint8*", "y -> DequantizeLinear -> z",
    ),
    "bias and activation behind a product": (
        "x:uint8* -> DequantizeLinear -> a", "w:const8 -> DequantizeLinear -> v", "a v -> MatMul -> p",
        "p b:const -> Add -> s", "s -> Relu -> r", "r -> QuantizeLinear -> y:uint8*",
    ),
    "bias in the layer": (
        "x:uint8* -> DequantizeLinear -> a", "w:const8 -> DequantizeLinear -> v", "a v b:const -> Conv -> p",
        "p -> Clip -> c", "c -> QuantizeLinear -> y:uint8*",
    ),
    "a sum of quantized tensors": (
        "x:uint8* -> DequantizeLinear -> a", "x -> DequantizeLinear -> b", "a b -> Add -> s",
        "s -> QuantizeLinear -> y:uint8*",
    ),
    "shapes and pools between": (
        "x:uint8* -> DequantizeLinear -> a", "a -> MaxPool -> m", "m s:int64 -> Reshape -> r",
        "w:const8 -> DequantizeLinear -> v", "r v -> Gemm -> p", "p -> QuantizeLinear -> y:uint8*",
    ),
    "joined pools": (
        "x:uint8* -> DequantizeLinear -> a", "a -> MaxPool -> m", "a -> MaxPool -> n", "m n -> Concat -> c",
        "c -> QuantizeLinear -> y:uint8*",
    ),
    "two users that both quantize": (
        "x:uint8* -> DequantizeLinear -> a", "w:const8 -> DequantizeLinear -> v", "a v -> MatMul -> p",
        "p -> QuantizeLinear -> y:uint8*", "p -> QuantizeLinear -> z:uint8*",
    ),
    "ranges and stored integers": (
        "x -> FakeQuantize -> a:float32*", "w:const8 -> Convert -> c", "c k:const -> Multiply -> v",
        "a v -> MatMul -> p", "p b:const -> Add -> s", "s -> FakeQuantize -> y:float32*",
    ),
    "rows behind a range": (
        "t:const8 i:int32 -> Gather -> r:int8*", "r -> Convert -> c", "c k:const -> Multiply -> f",
        "f -> FakeQuantize -> y:float32*",
    ),
    "token ids are no numbers": (
        "i:int64 -> Cast -> j:int32", "j s:int64 -> Reshape -> k:int32", "t:const8 k -> Gather -> r:int8*",
        "r -> DequantizeLinear -> f", "f -> QuantizeLinear -> y:uint8*",
    ),
}  # fmt: skip

ISLANDS: dict[str, tuple[Sequence[str], list[str]]] = {
    "one operation": (
        ("x:int8* -> DEQUANTIZE -> f", "f -> SOFTMAX -> g", "g -> QUANTIZE -> y:int8*", "y -> RELU -> z:int8*"),
        ["1:SOFTMAX (1)"],
    ),
    "operations that feed each other": (
        ("x:int8* -> RELU -> y:int8*", "y -> DEQUANTIZE -> f", "f -> MEAN -> m", "f m -> SUB -> d", "d -> RSQRT -> e"),
        ["2:MEAN (3)"],
    ),
    "two with integers between": (
        ("x:int8* -> DEQUANTIZE -> f", "f -> EXP -> g", "g -> QUANTIZE -> y:int8*", "y w:const8 -> CONV_2D -> z:int8*",
         "z -> DEQUANTIZE -> h", "h -> EXP -> k"),
        ["1:EXP (1)", "5:EXP (1)"],
    ),
    "two at one dequantized tensor": (
        ("x:int8* -> RELU -> y:int8*", "y -> DEQUANTIZE -> f", "f -> EXP -> g", "f -> LOG -> h"),
        ["2:EXP (2)"],
    ),
    "one constant is no bridge": (
        ("x:int8* -> RELU -> y:int8*", "y -> DEQUANTIZE -> f", "f c:const -> MUL -> g", "y -> DEQUANTIZE -> h",
         "h c -> MUL -> k"),
        ["2:MUL (1)", "4:MUL (1)"],
    ),
    "a layer that is left float": (
        ("x:int8* w:const8 -> CONV_2D -> y:int8*", "y -> DEQUANTIZE -> f", "f v:const -> FULLY_CONNECTED -> z"),
        ["2:FULLY_CONNECTED (1)"],
    ),
    "moved floats": (
        ("x:int8* -> RELU -> y:int8*", "y -> DEQUANTIZE -> f", "f -> EXP -> g", "g s:int32 -> RESHAPE -> h"),
        ["2:EXP (2)"],
    ),
    "an operation without an integer form": (
        ("x:uint8* -> DequantizeLinear -> a", "a -> Softmax -> s", "s -> QuantizeLinear -> y:uint8*"),
        ["1:Softmax (1)"],
    ),
    "a product that is not quantized": (
        ("x -> QuantizeLinear -> q:uint8*", "q -> DequantizeLinear -> a", "w:const8 -> DequantizeLinear -> v",
         "a v -> MatMul -> y"),
        ["3:MatMul (1)"],
    ),
    "a product that something else reads too": (
        ("x:uint8* -> DequantizeLinear -> a", "w:const8 -> DequantizeLinear -> v", "a v -> MatMul -> p",
         "p -> QuantizeLinear -> q:uint8*", "p -> Sigmoid -> y"),
        ["2:MatMul (2)"],
    ),
    "a product of floats": (
        ("x:uint8* -> DequantizeLinear -> a", "a -> Sigmoid -> s", "w:const8 -> DequantizeLinear -> v",
         "s v -> MatMul -> p", "p -> QuantizeLinear -> y:uint8*"),
        ["1:Sigmoid (2)"],
    ),
    "a sum with a float constant": (
        ("x:uint8* -> DequantizeLinear -> a", "a c:const -> Add -> s", "s -> QuantizeLinear -> y:uint8*"),
        ["1:Add (1)"],
    ),
    "a normalisation of one node": (
        ("x:uint8* -> DequantizeLinear -> a", "a g:const b:const -> LayerNormalization -> n",
         "n -> QuantizeLinear -> y:uint8*"),
        ["1:LayerNormalization (1)"],
    ),
    "between ranges": (
        ("x -> FakeQuantize -> a:float32*", "a -> MVN -> m", "m c:const -> Multiply -> n", "n d:const -> Add -> o",
         "o -> FakeQuantize -> y:float32*"),
        ["1:MVN (3)"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("lines", NO_ISLANDS.values(), ids=NO_ISLANDS)
def test_what_runs_on_integers_is_no_island(lines: Sequence[str]) -> None:
    assert float_islands(graph(*lines)) == []


@pytest.mark.parametrize(("lines", "expected"), ISLANDS.values(), ids=ISLANDS)
def test_an_island_is_named_by_its_first_operation_and_its_size(lines: Sequence[str], expected: list[str]) -> None:
    assert float_islands(graph(*lines)) == expected


@pytest.mark.parametrize("family", ["ds_cnn", "resnet"])
@pytest.mark.parametrize("name", FORMATS)
def test_students_of_images_have_no_islands(name: Format, family: str, tmp_path: Path) -> None:
    for card in CARDS:
        assert float_islands(read_graph(exported(tmp_path, name, family, card=card))) == []


@pytest.mark.parametrize("name", FORMATS)
def test_a_text_cnn_has_no_islands(name: Format, tmp_path: Path) -> None:
    assert float_islands(read_graph(text_file(tmp_path, "text_cnn", name, "int8"))) == []


@pytest.mark.parametrize("name", FORMATS)
def test_an_encoder_has_one_for_each_normalisation_and_attention_and_one_for_the_places(
    name: Format, tmp_path: Path
) -> None:
    normalisations = sum(isinstance(one, nn.LayerNorm) for one in text_student("text_encoder").modules())
    attentions = len(text_student("text_encoder").blocks)
    found = float_islands(read_graph(text_file(tmp_path, "text_encoder", name, "int8")))
    assert (normalisations, attentions) == (3, 1)
    assert len(found) == normalisations + attentions + 1


@pytest.mark.parametrize("precision", ["int8-weights", "float16", "float32"])
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_in_a_float_model_nothing_is_an_island(family: str, name: Format, precision: str, tmp_path: Path) -> None:
    assert float_islands(read_graph(text_file(tmp_path, family, name, precision))) == []


class Calling(nn.Module):
    """A model of one call."""

    def __init__(self, call: Callable[[torch.Tensor], torch.Tensor], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.call, self.layer = call, layer

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.call(inputs if self.layer is None else self.layer(inputs))


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (nn.Linear(4, 4), (1, 4), 0),
        (nn.Conv2d(2, 3, 2), (1, 2, 4, 4), 0),
        (nn.ConvTranspose2d(2, 3, 2), (1, 2, 4, 4), 0),
        (Calling(lambda x: x.reshape(1, 8).flatten(1)), (1, 2, 4), 0),
        (Calling(lambda x: x.transpose(1, 2)), (1, 2, 4), 1),
        (Calling(lambda x: x.permute(0, 2, 1).transpose(0, 1)), (1, 2, 4), 2),
        (Calling(lambda x: x.mT @ x), (1, 2, 4), 1),
        (Calling(lambda x: x.T @ x), (2, 4), 1),
        (Calling(lambda x: x.t() @ x), (2, 4), 1),
        (Calling(lambda x: x.swapaxes(1, 2).movedim(1, 0)), (1, 2, 4), 2),
        (Calling(lambda x: nn.functional.channel_shuffle(x, 2)), (1, 4, 2, 2), 1),
        (Calling(lambda x: nn.functional.scaled_dot_product_attention(x, x, x)), (1, 3, 4), 1),
        (Calling(lambda x: x.mT, nn.ConvTranspose1d(2, 3, 2)), (1, 2, 4), 1),
    ],
)
def test_the_transposes_of_a_models_own_code_are_counted(
    model: nn.Module, shape: tuple[int, ...], expected: int
) -> None:
    assert asked_transposes(model.eval(), torch.zeros(shape)) == expected


def test_attention_asks_for_one_transpose_more_than_its_heads() -> None:
    program = text_quantized("text_encoder")
    assert asked_transposes(program.frozen(stored=False), program.example) == 5


TURNING = graph("x:int8* -> TRANSPOSE -> a:int8*", "a -> Transpose -> b:int8*", "b -> RELU -> c:int8*",
                "c -> TRANSPOSE -> d:int8*")  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "expected"),
    [(0, ["0:TRANSPOSE", "1:Transpose", "3:TRANSPOSE"]), (2, ["3:TRANSPOSE"]), (3, []), (9, [])],
)
def test_transposes_beyond_those_asked_for_are_stray(asked: int, expected: list[str]) -> None:
    assert stray_transposes(TURNING, asked) == expected


FOUND = Coverage(Placement(9, 2, ("3:EXP", "5:LOG"), ("0:GATHER",)), ("1:TRANSPOSE",), ("2:MEAN (4)", "7:EXP (1)"))


def test_coverage_puts_all_counts_together() -> None:
    found = coverage(TURNING, Placement(4, 1, ()), 2)
    assert found == Coverage(Placement(4, 1, ()), ("3:TRANSPOSE",), ())
    document = FOUND.document()
    assert (document["total"], document["delegated"], document["delegates"]) == (9, 6, 2)
    assert (document["undelegated"], document["lookups"]) == (["3:EXP", "5:LOG"], ["0:GATHER"])
    assert (document["stray_transposes"], document["float_islands"]) == (1, ["2:MEAN (4)", "7:EXP (1)"])


@pytest.mark.parametrize(
    "limits", [CoverageLimits(), CoverageLimits(2, 1, 2), CoverageLimits(5, None, None), CoverageLimits(None, 1, 9)]
)
def test_what_is_within_the_limits_passes(limits: CoverageLimits) -> None:
    check_coverage(limits, FOUND)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (CoverageLimits(undelegated=1), ("2 undelegated", "3:EXP, 5:LOG", "allows 1")),
        (CoverageLimits(layout_changes=0), ("1 layout changes", "1:TRANSPOSE", "allows 0")),
        (CoverageLimits(float_islands=1), ("2 float islands", "2:MEAN (4), 7:EXP (1)", "allows 1")),
    ],
)
def test_a_broken_limit_is_told_with_the_operations(limits: CoverageLimits, words: tuple[str, ...]) -> None:
    with pytest.raises(GateError) as caught:
        check_coverage(limits, FOUND)
    assert caught.value.exit_code == 5
    assert all(word in str(caught.value) for word in words), str(caught.value)
