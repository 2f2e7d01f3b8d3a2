"""Where a file that answers otherwise than its source departs from it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from edgekd.compress import nncf_backend
from edgekd.compress.program import QuantizedProgram
from edgekd.errors import UsageError
from edgekd.readers.graph import FileGraph
from edgekd.runtimes.session import IMAGE_DIMENSIONS, Session

ROUNDING = 5.0
"""Steps of a tensor's scale that two runtimes may differ by without either being wrong: what each layer rounds
otherwise adds up, to 4 steps in good files of small networks, most of all where scales are held as float16.
"""


@dataclass(frozen=True)
class Departure:
    """The first quantized tensor that differs by more than rounding, and the values that differ most.

    layer: the operation of the trained model. place: the file's tensor in words. steps: the difference in its scale.
    """

    layer: str
    place: str
    expected: float
    found: float
    steps: float

    def __str__(self) -> str:
        return (
            f"it departs first behind '{self.layer}' ({self.place}): {self.expected:.6g} in torch, {self.found:.6g} in "
            f"the file, {self.steps:.4g} steps"
        )


def first_departure(
    session: Session,
    graph: FileGraph,
    places: Mapping[int, int],
    program: QuantizedProgram,
    inputs: torch.Tensor,
    encoded: np.ndarray,
) -> Departure | None:
    """Run one sample through both and compare tensor by tensor, in the order of the file.

    places: tensor of the file -> position in the program's table (see `Readback`). inputs: (1, ...); encoded: the same
    as the file takes it, without the batch dimension. None if all agree, or where inner tensors cannot be read.
    """
    try:
        found = session.tensors(encoded)
    except UsageError:
        return None
    expected = _quantized_outputs(program, inputs)
    order = [*graph.inputs, *(index for node in graph.nodes for index in node.outputs)]
    for index in (index for index in order if index in places and index in found):
        position = places[index]
        if position not in expected:
            continue
        ours, theirs = expected[position], _like_torch(found[index], session)
        if ours.size != theirs.size:
            continue
        ours, theirs = ours.ravel(), theirs.ravel()
        entry = program.table[position]
        steps = np.abs(ours - theirs) / np.float32(entry.scale[0])
        worst = int(steps.argmax())
        if steps[worst] > ROUNDING:
            tensor = graph.tensors[index]
            values = float(ours[worst]), float(theirs[worst])
            return Departure(entry.tensor, graph.describe(tensor), *values, float(steps[worst]))
    return None


def _quantized_outputs(program: QuantizedProgram, inputs: torch.Tensor) -> dict[int, np.ndarray]:
    """What each activation quantizer of the trained model gives, by its position in the table."""
    values: dict[int, np.ndarray] = {}

    def keep(position: int):  # type: ignore[no-untyped-def]
        def hook(module: torch.nn.Module, arguments: object, output: torch.Tensor) -> None:
            values[position] = output.detach().numpy().copy()

        return hook

    placed = nncf_backend.quantizers_of(program.model, program.example)
    handles = [
        one.quantizer.register_forward_hook(keep(position)) for position, one in enumerate(placed) if not one.is_weight
    ]
    try:
        with torch.no_grad():
            program.model.eval()(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return values


def _like_torch(values: np.ndarray, session: Session) -> np.ndarray:
    """Channels first, where the file has images channels last."""
    turned = session.channels_last and values.ndim == IMAGE_DIMENSIONS
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2)) if turned else values
