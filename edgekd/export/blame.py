"""Which operation in which layer a converter refused."""

import re
from collections.abc import Iterator

import torch

from edgekd.errors import first_line

OPERATION = re.compile(r"(?:aten[.:]+|prims[.:]+|fx node |node \w+ \(|`)(\w+)")
WRAPPERS = ("Wrapped", "_Probabilities", "_FromPixels")
"""What edgekd itself puts around a model, as its `model`."""
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def refusal(error: BaseException, program: torch.export.ExportedProgram) -> str:
    """Why a converter refused a traced model, in one line: its own words, and the layer if they name an operation."""
    for text in _texts(error):
        for name in OPERATION.findall(text):
            if layer := _layer_of(name, program):
                return f"no conversion for {name} in {layer}; replace it in the model"
    return COLOUR.sub("", first_line(error))


def _texts(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


def _layer_of(name: str, program: torch.export.ExportedProgram) -> str:
    """The module that calls an operation, found in the model before or after its operations are broken down."""
    graphs = (program, program.run_decompositions())
    calls = [node for traced in graphs for node in traced.graph.nodes if node.op == "call_function"]
    parts = {node: str(node.target).split(".") for node in calls}
    exact = [node for node in calls if name in parts[node]]
    found = exact or [node for node in calls if any(part.endswith(f"_{name}") for part in parts[node])]
    if not found:
        return ""
    stack = [(path, str(kind).rpartition(".")[2]) for path, kind in found[0].meta.get("nn_module_stack", {}).values()]
    path, kind = stack[-1] if stack else ("", "model")
    for _ in (name for _, name in stack if name in WRAPPERS):
        path = path.removeprefix("model").removeprefix(".")
    return f"layer '{path}' ({kind})" if path else f"the model itself ({kind})"
