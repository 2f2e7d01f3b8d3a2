"""Channel pruning that shrinks what the device feels: whole channels leave, and the model that is left is dense."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from edgekd.compress.channels import Group, channel_groups, check_forward, cut
from edgekd.compress.weights import require_float
from edgekd.config import nearest
from edgekd.errors import UsageError

Counts = tuple[int, ...]
Cost = Callable[[nn.Module], float]
TRIALS = 12
CLOSE = 0.99
VECTOR = 16
"""How many channels the int8 kernels of CPUs take at once: 8 of a layer take as long as 16, and 24 as long as 32."""
MEASUREMENTS, AIM, NEAR = 6, 0.98, 0.95
"""With a guide: how many candidates are measured a round at most, what they are to reach, and what is near enough; of
the target.
"""


def prune(
    model: nn.Module,
    example: torch.Tensor,
    cost: Cost,
    keep: float,
    *,
    guide: Cost | None = None,
    measurements: int = MEASUREMENTS,
    protect: Sequence[str] = (),
    rounds: int = 1,
    recover: Callable[[nn.Module], object] | None = None,
) -> nn.Module:
    """A smaller copy, in eval mode, with cost(copy) <= keep * cost(model): the least important channels are gone.

    A channel leaves with all that belongs to it (Fang et al. 2023, DepGraph), and its importance is the squared weight
    of all that, against the mean of its group: all groups are ranked together, and none loses more than seven eighths
    in a round. An attention loses heads, or as many rows of each. The inputs and outputs of the model stay.

    example: zeros of shape (1, ...), float32 or int32 token ids. cost: any number that falls with the size, for example
    multiply-accumulates; it is called some 20 times a round with a model in eval mode. keep: above 0, below 1. guide:
    for a cost that takes long, as a measured latency does, a quick one that goes with it. The cost is then called with
    the whole and the smallest model, and in a round with at most so many (`measurements`; mostly one or two do) that
    straight lines over the guide, between all that was measured, promise to reach the target; 0 takes the first of them
    unmeasured. With a guide a multiple of 16 of a layer's channels stays, or all. protect: paths of modules, or fnmatch
    patterns, whose output channels stay, and of all in them. rounds: how many steps of equal ratio lead there. recover:
    trains a model in place, after each step.

    Raises UsageError for a wrong argument, a model that is quantized, a target that cannot be reached, and for a
    forward that hard-codes a size that pruning changes, naming its line.
    """
    _check_arguments(model, keep, rounds)
    kept = protected(model, protect)
    pruned = copy.deepcopy(model).eval()
    groups = _groups(pruned, example, kept, guide)
    smallest, whole, least = _reachable(pruned, example, cost, keep, groups)
    seen = {guide(pruned): whole, guide(smallest): least} if guide else {}
    for step in range(1, rounds + 1):
        target = whole * keep ** (step / rounds)
        if guide is None:
            pruned = _smaller(pruned, example, cost, target, groups)
        else:
            pruned = _guided(pruned, example, cost, target, groups, guide, seen, measurements)
        if recover is not None:
            recover(pruned)
            pruned.eval()
        if step < rounds:
            groups = _groups(pruned, example, kept, guide)
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


def _groups(model: nn.Module, example: torch.Tensor, protected: frozenset[str], guide: Cost | None) -> Sequence[Group]:
    groups = channel_groups(model, example, protected)
    return [replace(group, step=VECTOR) for group in groups] if guide else groups


def _reachable(
    model: nn.Module, example: torch.Tensor, cost: Cost, keep: float, groups: Sequence[Group]
) -> tuple[nn.Module, float, float]:
    """The smallest model, the cost of the whole one, and that of the smallest; raises UsageError if it is too high."""
    if not groups:
        raise UsageError(f"{type(model).__name__} has no channels that could be pruned; protect fewer layers")
    smallest = cut(model, groups, [0] * len(groups))
    check_forward(smallest, model, example)
    whole, least = cost(copy.deepcopy(model)), cost(smallest)
    if not whole > 0:
        raise UsageError(f"the cost of {type(model).__name__} must be a number above 0, not {whole}")
    if least > keep * whole:
        raise UsageError(
            f"keep: {keep} of the cost of {type(model).__name__} cannot be reached; the least is {least / whole:.3g}, "
            f"with an eighth of the channels that may be pruned{', or 16' if groups[0].step else ''}"
        )
    return smallest, whole, least


def _guided(
    model: nn.Module,
    example: torch.Tensor,
    cost: Cost,
    target: float,
    groups: Sequence[Group],
    guide: Cost,
    seen: dict[float, float],
    measurements: int,
) -> nn.Module:
    """The model with the largest cost measured that is not above the target. seen: guide -> cost; it is added to."""
    best, spent = None, 0.0

    def promised(candidate: nn.Module) -> float:
        places = sorted(seen)
        return float(np.interp(guide(candidate), places, [seen[place] for place in places]))

    for _ in range(max(measurements, 1)):
        candidate = _smaller(model, example, promised, max(AIM * target, min(seen.values())), groups)
        if not measurements:
            return candidate
        seen[guide(candidate)] = found = cost(candidate)
        if spent < found <= target:
            best, spent = candidate, found
        if NEAR * target <= spent:
            break
    if best is None:
        raise UsageError(
            f"keep: none of {measurements} candidates took {target:.3g} or less; run it again, or ask for less"
        )
    return best


def _smaller(model: nn.Module, example: torch.Tensor, cost: Cost, target: float, groups: Sequence[Group]) -> nn.Module:
    """The model with the largest cost found that is not above the target."""
    costs: dict[Counts, float] = {}

    def fits(counts: Counts) -> bool:
        if counts not in costs:
            costs[counts] = cost(cut(model, groups, counts))
        return costs[counts] <= target

    low, high, counts = 0.0, 1.0, _counts(groups, 1.0)
    fits(counts)
    for _ in range(TRIALS):
        middle = (low + high) / 2
        trial = _counts(groups, middle)
        if fits(trial):
            high, counts = middle, trial
        else:
            low = middle
        if CLOSE * target <= costs[counts] <= target:
            break
    for place in _by_worth(groups, counts)[:TRIALS]:
        trial = tuple(
            _next(group, few) if at == place else few
            for at, (group, few) in enumerate(zip(groups, counts, strict=True))
        )
        if costs[counts] < CLOSE * target and fits(trial):
            counts = trial
    if not fits(counts):
        raise UsageError(
            f"keep: a cost of {target:.4g} cannot be reached; the least that was found is {costs[counts]:.4g}"
        )
    pruned = cut(model, groups, counts)
    check_forward(pruned, model, example)
    return pruned


def _counts(groups: Sequence[Group], amount: float) -> Counts:
    """How many channels of each group stay if of all channels this share goes, those of least importance first."""
    limit = np.quantile(torch.cat([group.scores for group in groups]).numpy(), amount)
    return tuple(len(group.kept(int((group.scores > limit).sum()))) for group in groups)


def _next(group: Group, count: int) -> int:
    """The next larger number of channels that a group can have; the same if it is whole."""
    numbers = (len(group.kept(more)) for more in range(count + 1, len(group.scores) + 1))
    return next((number for number in numbers if number > count), count)


def _by_worth(groups: Sequence[Group], counts: Counts) -> list[int]:
    """Places of the groups that have lost channels, those first whose next ones are the most important."""
    worth = {}
    for place, (group, count) in enumerate(zip(groups, counts, strict=True)):
        larger = _next(group, count)
        if larger > count:
            gain = group.scores[list(group.kept(larger))].sum() - group.scores[list(group.kept(count))].sum()
            worth[place] = float(gain) / (larger - count)
    return sorted(worth, key=lambda place: -worth[place])
