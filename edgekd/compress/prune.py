"""Channel pruning that shrinks what the device feels: whole channels leave, and the model that is left is dense."""

import copy
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn.utils import parametrize

from edgekd.compress.channels import Group, channel_groups, check_forward, cut
from edgekd.compress.weights import require_float
from edgekd.config import nearest
from edgekd.errors import UsageError

Counts = tuple[int, ...]
TRIALS = 12
UNIFORM = True


def prune(
    model: nn.Module,
    example: torch.Tensor,
    cost: Callable[[nn.Module], float],
    keep: float,
    *,
    protect: Sequence[str] = (),
    rounds: int = 1,
    recover: Callable[[nn.Module], object] | None = None,
) -> nn.Module:
    """A smaller copy, in eval mode, with cost(copy) <= keep * cost(model): the least important channels are gone.

    A channel leaves with all that belongs to it (Fang et al. 2023, DepGraph), and its importance is the mean squared
    weight over the whole group. Attention loses heads, or as many rows of each, and a linear layer between two others
    its width; the outputs of the model and its inputs stay.

    example: zeros of shape (1, ...), float32 or int32 token ids. cost: any number that falls with the size, for example
    multiply-accumulates or a measured latency; it is called some 20 times a round with a model in eval mode. keep:
    above 0, below 1. protect: paths of modules, or fnmatch patterns, whose output channels stay, and of all in them.
    rounds: how many steps of equal ratio lead there. recover: trains a model in place, after each step.

    Raises UsageError for a wrong argument, a model that is quantized, a target that cannot be reached, and for a
    forward that hard-codes a size that pruning changes, naming its line.
    """
    _check_arguments(model, keep, rounds)
    kept = protected(model, protect)
    pruned = copy.deepcopy(model).eval()
    whole = _check_reach(pruned, example, cost, keep, kept)
    for step in range(1, rounds + 1):
        pruned = _step(pruned, example, cost, whole * keep ** (step / rounds), kept)
        if recover is not None:
            recover(pruned)
            pruned.eval()
    return pruned


def protected(model: nn.Module, names: Sequence[str]) -> frozenset[str]:
    """Paths of the modules that these names and patterns mean, and of all in them; a name of none is refused."""
    paths = [path for path, _ in model.named_modules() if path]
    found: set[str] = set()
    for name in names:
        matching = [path for path in paths if path == name or fnmatchcase(path, name)]
        if not matching:
            raise UsageError(f"protect: no module of {type(model).__name__} is called '{name}'; {nearest(name, paths)}")
        found.update(path for path in paths if any(path == one or path.startswith(f"{one}.") for one in matching))
    return frozenset(found)


def _check_arguments(model: nn.Module, keep: float, rounds: int) -> None:
    if not 0 < keep < 1:
        raise UsageError(f"keep: the share of the cost that stays must be above 0 and below 1, not {keep}")
    if rounds < 1:
        raise UsageError(f"rounds: must be at least 1, not {rounds}")
    require_float(model, "prune")
    for path, module in model.named_modules():
        if parametrize.is_parametrized(module):
            raise UsageError(f"'{path}' has a parametrized weight, which cannot be cut; prune before parametrizing")
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UsageError(f"'{name}' holds NaN or infinity: the model cannot be ranked by its weights")


def _check_reach(
    model: nn.Module, example: torch.Tensor, cost: Callable[[nn.Module], float], keep: float, kept: frozenset[str]
) -> float:
    """The cost of the whole model, after it is known that so much less can be reached."""
    groups = channel_groups(model, example, kept)
    if not groups:
        raise UsageError(f"{type(model).__name__} has no channels that could be pruned; protect fewer layers")
    smallest = cut(model, groups, [0] * len(groups))
    check_forward(smallest, model, example)
    whole, least = cost(copy.deepcopy(model)), cost(smallest)
    if least > keep * whole:
        share = least / whole
        raise UsageError(
            f"keep: {keep} of the cost cannot be reached; the least is {share:.3g}, with few channels left"
        )
    return whole


def _step(
    model: nn.Module, example: torch.Tensor, cost: Callable[[nn.Module], float], target: float, kept: frozenset[str]
) -> nn.Module:
    """The model with the largest cost found that is not above the target."""
    groups = channel_groups(model, example, kept)
    costs: dict[Counts, float] = {}

    def fits(counts: Counts) -> bool:
        if counts not in costs:
            costs[counts] = cost(cut(model, groups, counts))
        return costs[counts] <= target

    small = _counts(groups, 1.0)
    fits(small)
    low, high, large = 0.0, 1.0, tuple(len(group.scores) for group in groups)
    for _ in range(TRIALS):
        middle = (low + high) / 2
        counts = _counts(groups, middle)
        if fits(counts):
            high, small = middle, counts
        else:
            low, large = middle, counts
    _fill(small, large, fits)
    pruned = cut(model, groups, max((spent, counts) for counts, spent in costs.items() if spent <= target)[1])
    check_forward(pruned, model, example)
    return pruned


def _counts(groups: Sequence[Group], amount: float) -> Counts:
    """How many channels of each group stay if about this share of all channels, those of least importance, goes."""
    if UNIFORM:
        counts = [round(len(group.scores) * (1 - amount)) for group in groups]
    else:
        limit = torch.cat([group.scores for group in groups]).quantile(amount)
        counts = [int((group.scores > limit).sum()) for group in groups]
    return tuple(len(group.kept(count)) for group, count in zip(groups, counts, strict=True))


def _fill(small: Counts, large: Counts, fits: Callable[[Counts], bool]) -> None:
    """Between two trials that differ in several groups, try how many of them can have the larger number."""
    places = [place for place, (few, many) in enumerate(zip(small, large, strict=True)) if few != many]
    low, high = 0, len(places)
    while high - low > 1:
        middle = (low + high) // 2
        grown = frozenset(places[:middle])
        if fits(tuple(large[place] if place in grown else few for place, few in enumerate(small))):
            low = middle
        else:
            high = middle
