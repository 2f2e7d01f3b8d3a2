"""Which channels of a model can only leave together, how much each weighs, and how they are cut out."""

import copy
import math
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgekd.compress.fold import line_of
from edgekd.errors import UsageError, first_line

HEADS = ("heads", "num_heads", "num_attention_heads", "n_heads", "n_head", "nhead")
TORCH = Path(torch.__file__).parent
WIDE, NARROW = (32, 8), (16, 4)
"""From so many channels on, in steps of so many: at equal multiply-accumulates, int8 runs a few percent faster."""
FEWEST = 8
"""Of how many channels one stays at least: a layer of very few holds back all behind it."""
MIXING = (nn.LayerNorm, nn.GroupNorm, nn.MultiheadAttention)
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Heads:
    """An attention's heads: owner is the path of the module that has the query, key and value layers."""

    owner: str
    count: int
    width: int


@dataclass(frozen=True)
class Member:
    """One side of a layer, or a parameter, that loses channels with its group.

    prune: how torch-pruning cuts it. writes: it is the side of the outputs. indices: pairs of (the group's channel, the
    index that it has here).
    """

    name: str
    prune: Callable[[Any, list[int]], Any]
    writes: bool
    indices: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Group:
    """Channels that can only leave together, with all that belongs to each.

    scores: how important each channel is, float64, mean 1. parts: runs of equal length that must lose the same
    channels, as the groups of a convolution. heads: set if it is the inside of an attention. step: in multiples of how
    many channels it stays, or whole; by default in those that are convenient.
    """

    members: tuple[Member, ...]
    scores: torch.Tensor
    parts: int = 1
    heads: Heads | None = None
    step: int | None = None

    def kept(self, count: int) -> tuple[int, ...]:
        """The channels that stay if about `count` may: the most important ones, in convenient numbers, never none."""
        if self.heads is not None:
            return _kept_heads(self.scores.reshape(self.heads.count, self.heads.width), count)
        table = self.scores.reshape(self.parts, -1)
        length = table.shape[1]
        step = self.step or _step(length)
        left = step * max(1, round(max(count / self.parts, length / FEWEST) / step))
        best = table.sum(0).argsort(descending=True)[:left].tolist()
        return tuple(sorted(part * length + channel for part in range(self.parts) for channel in best))

    def removed(self, count: int) -> list[list[int]]:
        """What every member loses if about `count` channels stay, in ascending order."""
        kept = frozenset(self.kept(count))
        return [sorted({index for channel, index in one.indices if channel not in kept}) for one in self.members]


def channel_groups(model: nn.Module, example: torch.Tensor, protected: AbstractSet[str]) -> list[Group]:
    """The groups of channels that may be pruned: those that reach no input, no output and no protected layer.

    model: in eval mode. protected: paths of modules whose output channels stay. What the model does with its channels
    is tried: a group that it mixes in a way that cannot be followed is left out. Raises UsageError where nothing can be
    followed, and for a forward that hard-codes a size.
    """
    traced = copy.deepcopy(model).requires_grad_()
    graph, source, output = _follow(traced, example)
    fixed = protected | _fixed(traced)
    found = []
    for group in _followed(graph):
        written = [dep.target for dep, _ in group if graph.is_out_channel_pruning_fn(dep.handler)]
        members = tuple(_members(graph, group))
        staying = {part for one in members if one.writes for part in (one.name, one.name.rpartition(".")[0])} & fixed
        if staying or any(node is output or node.grad_fn is source for node in written):
            continue
        ready = _as_group(traced, graph, group, members)
        if ready is not None and _is_exact(model, ready, example):
            found.append(ready)
    return found


def cut(model: nn.Module, groups: Sequence[Group], counts: Sequence[int]) -> nn.Module:
    """A copy in which about so many channels of each group stay."""
    smaller = copy.deepcopy(model)
    frozen = {name for name, parameter in smaller.named_parameters() if not parameter.requires_grad}
    gone: dict[tuple[str, Callable[[Any, list[int]], Any]], set[int]] = {}
    for group, count in zip(groups, counts, strict=True):
        for member, indices in zip(group.members, group.removed(count), strict=True):
            gone.setdefault((member.name, member.prune), set()).update(indices)
        if group.heads is not None:
            _resize_heads(smaller.get_submodule(group.heads.owner), group.heads, group.kept(count))
    for (name, prune), every in gone.items():
        if every:
            _cut_layer(smaller, name, prune, sorted(every))
    for name, parameter in smaller.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return smaller


def check_forward(pruned: nn.Module, original: nn.Module, example: torch.Tensor) -> None:
    """Raise UsageError if a pruned model does not run, or answers two samples in another shape than the original."""
    batch = torch.cat([example] * 2)
    with torch.no_grad():
        wanted = original(batch).shape
        try:
            shape = pruned(batch).shape
        except Exception as error:
            raise UsageError(
                f"{_class_of(error)} hard-codes a size that pruning changes ({first_line(error)}){line_of(error)}; "
                "let it take the size from its input (-1), or protect its layers"
            ) from error
    if shape != wanted:
        raise UsageError(
            f"{type(original).__name__} hard-codes a size that pruning changes: two samples give outputs of shape "
            f"{tuple(shape)}, not {tuple(wanted)}; let it take the size from its input (-1), or protect its layers"
        )


def _follow(model: nn.Module, example: torch.Tensor) -> tuple[Any, Any, Any]:
    """torch-pruning's graph, the operation that stands for the input, and the node of the output."""
    from torch_pruning import DependencyGraph

    inputs = example.clone().requires_grad_() * 1 if example.is_floating_point() else example
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = DependencyGraph().build_dependency(model, inputs, forward_fn=_answers, verbose=False)
    except Exception as error:
        name, reason = type(model).__name__, first_line(error)
        raise UsageError(f"the channels of {name} cannot be followed: {reason}{line_of(error)}") from error
    return graph, inputs.grad_fn or object(), next(iter(graph.module2node.values()))


def _answers(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    outputs = model(inputs)
    if not isinstance(outputs, torch.Tensor):
        raise TypeError(f"its outputs are of type {type(outputs).__name__}, not one tensor")
    return outputs


def _followed(graph: Any) -> Iterator[Any]:
    """torch-pruning's groups, each with all of its channels."""
    seen: set[Any] = set()
    for layer in list(graph.module2node):
        if layer in seen or not isinstance(layer, nn.modules.conv._ConvNd | nn.Linear | nn.Embedding):
            continue
        pruner = graph.get_pruner_of_module(layer)
        try:
            group = graph.get_pruning_group(layer, pruner.prune_out_channels, range(pruner.get_out_channels(layer)))
        except IndexError:  # it has lost its way where channels are shuffled: these stay
            continue
        seen.update(dep.layer for dep, _ in group if graph.is_out_channel_pruning_fn(dep.handler))
        yield group


def _members(graph: Any, group: Any) -> Iterator[Member]:
    """What of a group has numbers: layers, and parameters of the user's own modules."""
    for item in group:
        dep = item.dep
        name = graph._param_to_name.get(dep.layer) if isinstance(dep.layer, nn.Parameter) else dep.target._name
        if name is not None:
            indices = tuple(zip(item.root_idxs, item.idxs, strict=True))
            yield Member(name, dep.handler, graph.is_out_channel_pruning_fn(dep.handler), indices)


def _as_group(model: nn.Module, graph: Any, group: Any, members: tuple[Member, ...]) -> Group | None:
    """The group with scores, and what binds its channels to each other; None if none of them can be spared."""
    from torch_pruning import importance

    channels = len(group[0].idxs)
    parts = math.lcm(*(_parts(_layer(model, one.name)) for one in members))
    heads = _heads(model, members, channels)
    magnitude = importance.GroupMagnitudeImportance(p=2, normalizer=None)
    weighed = [indices for dep, indices in group if isinstance(dep.layer, tuple(magnitude.target_types))]
    whole = all(len(set(item.root_idxs)) == channels for item in group)
    if not weighed or len(weighed[0]) < channels or channels < 2 * parts or not _is_placed(graph, group):
        return None
    if not whole and (parts > 1 or heads is not None):
        return None
    scores = magnitude(group)[:channels].detach().double()
    mean = scores.mean()
    return Group(members, scores / mean if mean > 0 else torch.ones_like(scores), parts, heads)


def _is_placed(graph: Any, group: Any) -> bool:
    """Has torch-pruning found a place for every channel in every layer?"""
    for item in group:
        dep = item.dep
        writes = graph.is_out_channel_pruning_fn(dep.handler)
        size = graph.get_out_channels(dep.target) if writes else graph.get_in_channels(dep.target)
        if None in item.root_idxs or (size is not None and max(item.idxs) >= size):
            return False
    return True


def _is_exact(model: nn.Module, group: Group, example: torch.Tensor) -> bool:
    """Without its strongest channels, does the model answer as if they were zero, and nobody read them?

    It does not where its forward reorders or sums over channels. What takes its statistics over channels, as a layer
    normalisation does, cannot be told in this way, nor an attention whose scale is that of its width.
    """
    layers = [_layer(model, member.name) for member in group.members]
    weakest = replace(group, scores=-group.scores)
    half = len(group.scores) // 2
    smaller = cut(model, [weakest], [half])
    check_forward(smaller, model, example)
    if group.heads is not None or any(isinstance(layer, MIXING) for layer in layers):
        return True
    inputs = (
        torch.randn(example.shape, generator=torch.Generator().manual_seed(0))
        if example.is_floating_point()
        else example
    )
    zeroed = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for member, layer, indices in zip(group.members, layers, weakest.removed(half), strict=True):
        _zero(zeroed, member, layer, torch.tensor(indices, dtype=torch.long))
    with torch.no_grad():
        wanted, found = torch.func.functional_call(model, zeroed, (inputs,)), smaller(inputs)
    return bool((found - wanted).abs().max() <= TOLERANCE * wanted.abs().max().clamp(min=TOLERANCE))


def _zero(parameters: Mapping[str, torch.Tensor], member: Member, layer: Any, indices: torch.Tensor) -> None:
    """Set what a layer writes to these channels, or reads from them, to zero."""
    axis = 0 if member.writes else 1
    if isinstance(layer, nn.Parameter):
        axis = _channel_axis(layer)
    elif isinstance(layer, nn.Embedding):
        axis = 1
    elif getattr(layer, "transposed", False):
        axis = 1 - axis
    weight = parameters.get(member.name if isinstance(layer, nn.Parameter) else f"{member.name}.weight")
    bias = parameters.get(f"{member.name}.bias") if member.writes else None
    if weight is not None:
        weight.index_fill_(axis, indices % weight.shape[axis], 0)
    if bias is not None:
        bias.index_fill_(0, indices, 0)


def _channel_axis(parameter: nn.Parameter) -> int:
    """Where torch-pruning takes a parameter of the user's own module to have its channels."""
    return max(place for place, size in enumerate(parameter.shape) if size > 1)


def _heads(model: nn.Module, members: Sequence[Member], channels: int) -> Heads | None:
    """The heads of the module that has two or more of the linear layers whose rows these are."""
    rows = [member.name for member in members if member.writes and isinstance(_layer(model, member.name), nn.Linear)]
    owners = [name.rpartition(".")[0] for name in rows]
    for owner in dict.fromkeys(owners):
        count = next((value for name, value in vars(model.get_submodule(owner)).items() if name in HEADS), None)
        if owners.count(owner) > 1 and isinstance(count, int) and count > 0 and channels % count == 0:
            return Heads(owner, count, channels // count)
    return None


def _kept_heads(scores: torch.Tensor, count: int) -> tuple[int, ...]:
    """Of all shapes (heads, width) with at most `count` channels, the one that keeps the most; scores: by head."""
    heads, width = scores.shape
    ranked, order = scores.sort(1, descending=True)
    of_head = ranked.cumsum(1)
    best_heads = of_head.argsort(0, descending=True)
    step = _step(width)
    most = max(count, step, heads * width // FEWEST)
    shapes = [(number, size) for number in range(1, heads + 1) for size in range(step, width + 1, step)]
    possible = [(number, size) for number, size in shapes if number * size <= most]
    number, size = max(
        possible, key=lambda shape: float(of_head[best_heads[: shape[0], shape[1] - 1], shape[1] - 1].sum())
    )
    chosen = best_heads[:number, size - 1].tolist()
    return tuple(sorted(head * width + channel for head in chosen for channel in order[head, :size].tolist()))


def _resize_heads(owner: nn.Module, heads: Heads, kept: Sequence[int]) -> None:
    """Bring the integers of an attention that count its heads or channels to the new numbers."""
    count = len({channel // heads.width for channel in kept})
    for name, value in list(vars(owner).items()):
        if name in HEADS:
            setattr(owner, name, count)
        elif "head" in name and isinstance(value, int) and not isinstance(value, bool):
            sizes = {heads.width: len(kept) // count, heads.width * heads.count: len(kept)}
            setattr(owner, name, sizes.get(value, value))


def _cut_layer(model: nn.Module, name: str, prune: Callable[[Any, list[int]], Any], indices: list[int]) -> None:
    layer = _layer(model, name)
    if isinstance(layer, nn.Parameter):
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, _without(layer, _channel_axis(layer), indices))
    elif isinstance(layer, nn.LayerNorm):  # torch-pruning 1.6.1 does not keep the order of its channels
        for leaf, parameter in list(layer.named_parameters()):
            setattr(layer, leaf, _without(parameter, 0, indices))
        layer.normalized_shape = (layer.normalized_shape[0] - len(indices),)
    else:
        prune(layer, indices)


def _without(tensor: nn.Parameter, dimension: int, indices: list[int]) -> nn.Parameter:
    left = [index for index in range(tensor.shape[dimension]) if index not in set(indices)]
    return nn.Parameter(tensor.detach().index_select(dimension, torch.tensor(left, device=tensor.device)))


def _fixed(model: nn.Module) -> set[str]:
    """Paths of layers that are not cut: those that share a parameter, and those whose channels are more than a row."""
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name.rpartition(".")[0])
    shared = {owner for owners in names.values() if len(owners) > 1 for owner in owners}
    return shared | {path for path, layer in model.named_modules() if _is_fixed(layer)}


def _is_fixed(layer: nn.Module) -> bool:
    return isinstance(layer, nn.RNNBase) or (isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) > 1)


def _parts(layer: nn.Module | nn.Parameter) -> int:
    """The number of runs of a layer's channels that must stay equally long."""
    if isinstance(layer, nn.modules.conv._ConvNd):
        return 1 if layer.groups == layer.out_channels else layer.groups
    if isinstance(layer, nn.GroupNorm):
        return layer.num_groups
    return layer.num_heads if isinstance(layer, nn.MultiheadAttention) else 1


def _step(channels: int) -> int:
    return next((step for least, step in (WIDE, NARROW) if channels >= least and channels % step == 0), 1)


def _layer(model: nn.Module, name: str) -> Any:
    """The module or parameter of this name."""
    owner, _, leaf = name.rpartition(".")
    return getattr(model.get_submodule(owner), leaf)


def _class_of(error: Exception) -> str:
    """The class of the innermost module of a traceback, the user's own if there is one."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_name == "forward"]
    own = [frame for frame in frames if TORCH not in Path(frame.f_code.co_filename).parents]
    code = (own or frames)[-1].f_code if frames else None
    return code.co_qualname.split(".")[-2] if code is not None and "." in code.co_qualname else "the model"
