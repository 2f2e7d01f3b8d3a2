import numpy as np

from edgekd.readers.graph import FileGraph, FileNode, FileTensor, bytes_moved, layout_changes


def tensor(index: int, shape: tuple[int, ...], dtype: str = "int8", name: str = "") -> FileTensor:
    return FileTensor(index, name, shape, dtype, None)


GRAPH = FileGraph(
    tensors=(
        tensor(0, (1, 4, 4, 3), name="input"),
        tensor(1, (8, 3, 3, 3)),
        tensor(2, (8,), "int32"),
        tensor(3, (1, 4, 4, 8)),
        tensor(4, (4,), "int32"),
        tensor(5, (1, 8, 4, 4), "float32", name="output"),
        tensor(6, (), "float32"),
    ),
    nodes=(FileNode("CONV_2D", (0, 1, 2), (3,)), FileNode("TRANSPOSE", (3, 4), (5,))),
    inputs=(0,),
    outputs=(5,),
)


def test_bytes_of_a_tensor() -> None:
    assert GRAPH.tensors[0].bytes == 48
    assert GRAPH.tensors[2].bytes == 32
    assert GRAPH.tensors[6].bytes == np.dtype("float32").itemsize


def test_bytes_moved_count_every_input_and_output_of_every_node() -> None:
    conv = 48 + 8 * 27 + 32 + 128
    transpose = 128 + 16 + 4 * 128
    assert bytes_moved(GRAPH) == conv + transpose


def test_layout_changes_are_the_transposes() -> None:
    assert layout_changes(GRAPH) == ["1:TRANSPOSE"]


def test_a_tensor_is_described_by_its_name_or_its_neighbours() -> None:
    words = [GRAPH.describe(one) for one in GRAPH.tensors]
    assert words == [
        "'input'",
        "input 1 of CONV_2D 0",
        "input 2 of CONV_2D 0",
        "the output of CONV_2D 0",
        "input 1 of TRANSPOSE 1",
        "'output'",
        "tensor 6",
    ]
