"""Models from their references, and their weights from files that cannot run code."""

import dataclasses
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from edgekd.config import nearest
from edgekd.errors import UsageError, first_line
from edgekd.models.structure import apply_edit
from edgekd.references import MODELS, call


@dataclass(frozen=True)
class Architecture:
    """How to build a module again: its reference and arguments, and the task that it was built for.

    vocabulary: the number of token ids, where the inputs are such. edits: what compression changed since, in order, as
    plain JSON (see `structure.apply_edit`).
    """

    model: str
    args: Mapping[str, Any]
    input_shape: tuple[int, ...]
    classes: int
    vocabulary: int | None = None
    edits: tuple[Mapping[str, Any], ...] = ()


def build(architecture: Architecture, role: str) -> nn.Module:
    """Build an untrained module and check that zeros of shape (1, *input_shape) give (1, classes), and two samples two.

    The function behind the reference is called with input_shape, classes, for token ids the vocabulary, and the args;
    then the edits are done.

    Raises UsageError, naming `role` (teacher or student), if it does not, or if an edit does not fit.
    """
    task = [architecture.input_shape, architecture.classes]
    if architecture.vocabulary is not None:
        task.append(architecture.vocabulary)
    module = call(architecture.model, MODELS, *task, args=architecture.args)
    if not isinstance(module, nn.Module):
        raise UsageError(f"{role}: {architecture.model} returned {type(module).__name__}, not a torch.nn.Module")
    for edit in architecture.edits:
        module = _edited(module, edit, f"{role}: {architecture.model}")
    module.eval()
    try:
        with torch.no_grad():
            outputs = module(example_input(architecture))
    except Exception as error:
        shape = (1, *architecture.input_shape)
        reason = first_line(error)
        raise UsageError(f"{role}: {architecture.model} does not take an input of shape {shape}: {reason}") from error
    if not isinstance(outputs, torch.Tensor) or outputs.ndim != 2:
        raise UsageError(f"{role}: {architecture.model} must return logits of shape (N, classes)")
    if outputs.shape[1] != architecture.classes:
        raise UsageError(
            f"{role}: {architecture.model} has {outputs.shape[1]} outputs, the data has {architecture.classes} classes"
        )
    _check_batch(module, architecture, role)
    return module


def _edited(module: nn.Module, edit: Mapping[str, Any], where: str) -> nn.Module:
    try:
        return apply_edit(module, edit)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def _check_batch(module: nn.Module, architecture: Architecture, role: str) -> None:
    """Raise UsageError for a module that takes one sample alone: it could be exported, and not trained."""
    batch = torch.cat([example_input(architecture)] * 2)
    try:
        with torch.no_grad():
            outputs, reason = module(batch), "a batch of 2 gives another number of rows"
    except Exception as error:
        outputs, reason = None, first_line(error)
    if outputs is None or len(outputs) != len(batch):
        raise UsageError(
            f"{role}: {architecture.model} takes one sample at a time ({reason}); training needs batches of any size"
        )


def example_input(architecture: Architecture) -> torch.Tensor:
    """Zeros of shape (1, *input_shape) with plain strides, which is what exporters need: float32, or int32 for ids."""
    dtype = torch.float32 if architecture.vocabulary is None else torch.int32
    return torch.zeros(1, *architecture.input_shape, dtype=dtype)


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def save_module(module: nn.Module, architecture: Architecture, folder: Path) -> None:
    """Write `weights.safetensors` and `architecture.json`."""
    state = {name: tensor.detach().contiguous().clone() for name, tensor in module.state_dict().items()}
    write_tensors(state, folder / "weights.safetensors")
    document = dataclasses.asdict(architecture)
    if not architecture.edits:
        del document["edits"]
    (folder / "architecture.json").write_text(json.dumps(document))


def write_tensors(tensors: dict[str, torch.Tensor], file: Path) -> None:
    """Write safetensors; what keeps them from being written is an OSError, as it is for every other file."""
    try:
        save_file(tensors, file)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def load_architecture(folder: Path) -> Architecture:
    document = json.loads((folder / "architecture.json").read_text())
    rows = {"input_shape": tuple(document["input_shape"]), "edits": tuple(document.get("edits", ()))}
    return Architecture(**{**document, **rows})


def load_module(folder: Path, role: str) -> tuple[nn.Module, Architecture]:
    """What `save_module` wrote, in eval mode."""
    architecture = load_architecture(folder)
    module = build(architecture, role)
    module.load_state_dict(load_file(folder / "weights.safetensors"))
    return module.eval(), architecture


def load_weights(module: nn.Module, file: Path, role: str) -> None:
    """Fill a module from a user's weights: safetensors, or a torch state dict read with weights_only=True.

    Raises UsageError if the file is missing, is a pickle that holds more than tensors, does not fit the module, or
    holds a value that is not finite.
    """
    state = _read_state(file, role)
    wanted = module.state_dict()
    for name in wanted.keys() - state.keys():
        raise UsageError(f"{role}.weights: {file} has no '{name}'; {nearest(name, state)}")
    for name in state.keys() - wanted.keys():
        raise UsageError(f"{role}.weights: '{name}' in {file} is not in the model; {nearest(name, wanted)}")
    for name, tensor in state.items():
        if tensor.shape != wanted[name].shape:
            raise UsageError(
                f"{role}.weights: '{name}' in {file} has shape {tuple(tensor.shape)}, the model and the data need "
                f"{tuple(wanted[name].shape)}"
            )
        if not torch.isfinite(tensor.to(wanted[name].dtype)).all():
            raise UsageError(f"{role}.weights: '{name}' in {file} holds NaN or infinity")
    module.load_state_dict(state)


def _read_state(file: Path, role: str) -> dict[str, torch.Tensor]:
    if not file.is_file():
        raise UsageError(f"{role}.weights: {file} is not a file")
    try:
        safe = file.suffix == ".safetensors"
        state = load_file(file) if safe else torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"{role}.weights: {file} is damaged or not a plain state dict, which may not run code or build objects "
            "when loaded; save model.state_dict() or safetensors"
        ) from error
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        raise UsageError(f"{role}.weights: {file} cannot be read ({first_line(error)})") from error
    plain = isinstance(state, dict) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided
        for name, tensor in state.items()
    )
    if not plain:
        raise UsageError(f"{role}.weights: {file} is not a state dict (name -> tensor); save model.state_dict()")
    return dict(state)
