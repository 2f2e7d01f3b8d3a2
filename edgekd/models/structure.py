"""What compression changed in a module that its function builds, as plain JSON: how a smaller model is built again."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from edgekd.config import nearest
from edgekd.errors import UsageError
from edgekd.models.low_rank import apply_low_rank

RESIZE, LOW_RANK = "resize", "low-rank"
PLAIN = (bool, int, float, str, type(None))


def resize_between(original: nn.Module, changed: nn.Module) -> dict[str, Any]:
    """The edit of kind "resize" that gives `original` the shapes of `changed`.

    shapes: the new shape of every parameter and buffer that has another. attributes: by module path (the module itself
    is ""), every attribute, an integer or a row of integers, that has another value.

    Raises UsageError, naming it, if anything else changed: the module tree, a dtype, another kind of attribute.
    """
    if _tree(original) != _tree(changed):
        different = sorted(dict(_tree(original).items() ^ _tree(changed).items()))
        raise UsageError(f"the module tree changed, not just shapes: {different[0] or 'the module itself'}")
    before, after = _tensors(original), _tensors(changed)
    for name in sorted(before.keys() ^ after.keys()):
        raise UsageError(f"'{name}' is a parameter or buffer of one of the two modules alone")
    for name, tensor in before.items():
        if (tensor.dtype, tensor.ndim) != (after[name].dtype, after[name].ndim):
            raise UsageError(f"'{name}' changed more than its size: {_form(tensor)} became {_form(after[name])}")
    for name, other in _first_of(before).items():
        if _first_of(after)[name] != other:
            raise UsageError(f"'{name}' and '{other}' are one tensor in one of the two modules alone")
    shapes = {name: list(after[name].shape) for name, tensor in before.items() if tensor.shape != after[name].shape}
    attributes = {}
    for path, module in original.named_modules():
        different_values = _changed_attributes(path, module, changed.get_submodule(path))
        if different_values:
            attributes[path] = different_values
    return {"kind": RESIZE, "shapes": shapes, "attributes": attributes}


def apply_edit(module: nn.Module, edit: Mapping[str, Any]) -> nn.Module:
    """A copy of the module with the edit done; what becomes smaller keeps its first entries.

    Raises UsageError if the edit is of no known kind or does not fit the module.
    """
    if edit.get("kind") == LOW_RANK:
        return apply_low_rank(module, edit["layers"])
    if edit.get("kind") != RESIZE:
        raise UsageError(f"an edit of kind {edit.get('kind')!r} is not known; this build of edgekd is too old for it")
    for part in ("shapes", "attributes"):
        if not isinstance(edit.get(part), Mapping):
            raise UsageError(f"an edit of kind '{RESIZE}' has no table '{part}'")
    changed = copy.deepcopy(module)
    _resize(changed, edit["shapes"])
    modules = dict(changed.named_modules())
    for path, values in edit["attributes"].items():
        if path not in modules:
            raise UsageError(f"the edit names the module '{path}'; {nearest(path, modules)}")
        for name, value in values.items():
            before: Any = vars(modules[path]).get(name)
            if not _is_size(before) or not _is_size(value) or isinstance(before, int) != isinstance(value, int):
                raise UsageError(f"the edit sets {path}.{name} to {value!r} where {before!r} is: not integers")
            setattr(modules[path], name, type(before)(value))
    return changed


def _resize(module: nn.Module, shapes: Mapping[str, Iterable[int]]) -> None:
    """Cut tensors to these shapes; one that has two names stays one."""
    tensors, cut = _tensors(module), dict[int, torch.Tensor]()
    for name, wanted in shapes.items():
        if name not in tensors:
            raise UsageError(f"the edit names the tensor '{name}'; {nearest(name, tensors)}")
        tensor, shape = tensors[name], tuple(wanted)
        if len(shape) != tensor.ndim or not all(0 < new <= old for new, old in zip(shape, tensor.shape, strict=True)):
            raise UsageError(f"the edit cuts '{name}' of shape {tuple(tensor.shape)} to {shape}, which does not go")
        if id(tensor) not in cut:
            part = tensor.detach()[tuple(slice(size) for size in shape)].clone()
            parameter = isinstance(tensor, nn.Parameter)
            cut[id(tensor)] = nn.Parameter(part, requires_grad=tensor.requires_grad) if parameter else part
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, cut[id(tensor)])


def _tree(module: nn.Module) -> dict[str, str]:
    """The type of every module by its path."""
    modules = module.named_modules(remove_duplicate=False)
    return {path: f"{type(one).__module__}.{type(one).__qualname__}" for path, one in modules}


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer by every name that it has."""
    parameters, buffers = module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)
    return {**dict(parameters), **dict(buffers)}


def _first_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Of every name, the first one of the same tensor."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in tensors.items()}


def _form(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _changed_attributes(path: str, module: nn.Module, changed: nn.Module) -> dict[str, Any]:
    before, after = _plain_attributes(module), _plain_attributes(changed)
    found: dict[str, Any] = {}
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old == new and type(old) is type(new):
            continue
        if not _is_size(old) or type(old) is not type(new) or not _is_size(new):
            raise UsageError(f"{path or type(module).__name__}.{name} changed from {old!r} to {new!r}: not an integer")
        found[name] = list(new) if isinstance(new, tuple | list) else new
    return found


def _plain_attributes(module: nn.Module) -> dict[str, Any]:
    """What a module keeps beside tensors and modules, as far as it is numbers, words and rows of them."""
    return {
        name: value
        for name, value in vars(module).items()
        if name != "training"
        and not name.startswith("_")
        and (isinstance(value, PLAIN) or (isinstance(value, tuple | list) and all(isinstance(v, PLAIN) for v in value)))
    }


def _is_size(value: object) -> bool:
    """An integer, or a row of them."""
    row = value if isinstance(value, tuple | list) and value else [value]
    return all(isinstance(one, int) and not isinstance(one, bool) for one in row)
