"""Losses over tapped layers: hints, attention, and relations between the samples of a batch."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from edgekd.distill.losses.loss import Loss, Signals, require_same_shape
from edgekd.errors import UsageError


def feature_mse(student_layer: str, teacher_layer: str) -> Loss:
    """Mean squared difference of two tapped layers of the same shape (Romero et al. 2014, without a regressor)."""

    def compute(signals: Signals) -> torch.Tensor:
        student, teacher = signals.student_taps[student_layer], signals.teacher_taps[teacher_layer]
        require_same_shape(student, teacher, f"the student's '{student_layer}'", f"the teacher's '{teacher_layer}'")
        return F.mse_loss(student, teacher)

    return Loss(compute, student_taps=(student_layer,), teacher_taps=(teacher_layer,))


def hint(student_layer: str, teacher_layer: str) -> Loss:
    """Mean squared difference of a teacher's layer and what a learned regressor makes of the student's layer.

    FitNets (Romero et al. 2014, equation 3), with the mean over all numbers instead of half their sum.
    For the shapes, and for the UsageError that other shapes raise, see `regressor`.
    """

    def build(signals: Signals) -> nn.Module:
        student, teacher = signals.student_taps[student_layer], signals.teacher_taps[teacher_layer]
        return regressor(student, teacher, student_layer, teacher_layer)

    def compute(signals: Signals) -> torch.Tensor:
        assert signals.learned is not None
        return F.mse_loss(signals.learned(signals.student_taps[student_layer]), signals.teacher_taps[teacher_layer])

    return Loss(compute, student_taps=(student_layer,), teacher_taps=(teacher_layer,), build=build)


def regressor(student: torch.Tensor, teacher: torch.Tensor, student_layer: str, teacher_layer: str) -> nn.Module:
    """A learned map from the student's features to the shape of the teacher's, on the student's device.

    (N, F): linear. (N, tokens, F), as many tokens in both: linear for each token. (N, C, L) and (N, C, H, W): a
    convolution without padding whose kernel is as large as the maps differ, which needs far fewer weights than a
    linear map (Romero et al. 2014, section 2.2).

    Raises UsageError if the layers differ in their number of axes or the student's map is the smaller one.
    """
    mine, theirs = tuple(student.shape[1:]), tuple(teacher.shape[1:])
    made: nn.Module
    match mine, theirs:
        case ((*tokens, features), (*their_tokens, wanted)) if tokens == their_tokens and len(tokens) < 2:
            made = nn.Linear(features, wanted)
        case ((channels, length), (wanted, their_length)) if length >= their_length:
            made = nn.Conv1d(channels, wanted, length - their_length + 1)
        case ((channels, h, w), (wanted, their_h, their_w)) if h >= their_h and w >= their_w:
            made = nn.Conv2d(channels, wanted, (h - their_h + 1, w - their_w + 1))
        case _:
            raise UsageError(
                f"the student's '{student_layer}' gives {mine} for a sample, the teacher's '{teacher_layer}' {theirs}; "
                "choose layers with as many axes, the student's map at least as large as the teacher's"
            )
    return made.to(student.device, student.dtype)


def attention_transfer(student_layer: str, teacher_layer: str) -> Loss:
    """The squared distance of the two models' attention maps, the mean over the batch.

    A map is sum_c |A_c|² over the channels, made a unit vector over its positions (Zagoruyko & Komodakis 2017,
    equation 2, with the distance squared as in the authors' code). Layers (N, C, L) or (N, C, H, W); channels may
    differ, and the larger map is averaged down to the smaller along each axis.
    """

    def compute(signals: Signals) -> torch.Tensor:
        layers = signals.student_taps[student_layer], signals.teacher_taps[teacher_layer]
        student, teacher = (layer.square().sum(dim=1) for layer in layers)
        if student.ndim != teacher.ndim or student.ndim not in (2, 3):
            raise UsageError(
                f"attention is compared between maps: '{student_layer}' has shape {tuple(layers[0].shape)}, "
                f"'{teacher_layer}' {tuple(layers[1].shape)}; choose layers of shape (N, C, L) or (N, C, H, W)"
            )
        sizes = [min(pair) for pair in zip(student.shape[1:], teacher.shape[1:], strict=True)]
        student, teacher = (unit(pooled(maps, sizes).flatten(1)) for maps in (student, teacher))
        return (student - teacher).square().sum(dim=1).mean()

    return Loss(compute, student_taps=(student_layer,), teacher_taps=(teacher_layer,))


def rkd_distance(student_layer: str | None = None, teacher_layer: str | None = None) -> Loss:
    """Huber distance of the distances within a batch, each divided by its model's mean distance, over all pairs.

    RKD-D (Park et al. 2019, section 3.2.1). Any shapes (N, ...), flattened; without layers, the outputs.
    A batch of one has no pair and gives 0.
    """

    def compute(signals: Signals) -> torch.Tensor:
        layers = pair(signals, student_layer, teacher_layer)
        student, teacher = (_distances(features.flatten(1)) for features in layers)
        return F.smooth_l1_loss(student, teacher, reduction="sum") / max(len(student), 1)

    return over_pair(Loss(compute), student_layer, teacher_layer)


def rkd_angle(student_layer: str | None = None, teacher_layer: str | None = None) -> Loss:
    """Huber distance of the cosines of the angles that any two samples make at a third, over all such triples.

    RKD-A (Park et al. 2019, section 3.2.2). Any shapes (N, ...), flattened; without layers, the outputs.
    It holds N² F and N³ numbers. A batch of less than three has no triple and gives 0.
    """

    def compute(signals: Signals) -> torch.Tensor:
        layers = pair(signals, student_layer, teacher_layer)
        student, teacher = (_cosines(features.flatten(1)) for features in layers)
        count = len(student)
        triples = count * (count - 1) * (count - 2)
        return F.smooth_l1_loss(student, teacher, reduction="sum") / max(triples, 1)

    return over_pair(Loss(compute), student_layer, teacher_layer)


def similarity_preserving(student_layer: str | None = None, teacher_layer: str | None = None) -> Loss:
    """|G_T - G_S|² / N² with G = A Aᵀ, its rows made unit vectors (Tung & Mori 2019, section 3).

    Any shapes (N, ...), flattened to A (N, F); without layers, the outputs. A batch of one gives 0.
    """

    def compute(signals: Signals) -> torch.Tensor:
        layers = (features.flatten(1) for features in pair(signals, student_layer, teacher_layer))
        student, teacher = (unit(a @ a.T) for a in layers)
        return F.mse_loss(student, teacher)

    return over_pair(Loss(compute), student_layer, teacher_layer)


def unit(rows: torch.Tensor) -> torch.Tensor:
    """Each row of the last axis divided by its norm; a row of zeros stays one, and sends no gradient."""
    norms = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    scaled: torch.Tensor = rows / norms.masked_fill(norms == 0, math.inf)
    return scaled


def pooled(maps: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Maps (N, L) or (N, H, W) averaged down to `sizes`, by a matrix for each axis: repeatable on every device."""
    for axis, size in enumerate(sizes, start=1):
        if maps.shape[axis] != size:
            whole = torch.eye(maps.shape[axis], device=maps.device, dtype=maps.dtype)
            means = F.adaptive_avg_pool1d(whole[None], size)[0]
            maps = (maps.movedim(axis, -1) @ means).movedim(-1, axis)
    return maps


def pair(signals: Signals, student_layer: str | None, teacher_layer: str | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Both layers, or both outputs where no layer is named."""
    if student_layer is None or teacher_layer is None:
        assert signals.teacher is not None
        return signals.student, signals.teacher
    return signals.student_taps[student_layer], signals.teacher_taps[teacher_layer]


def over_pair(loss: Loss, student_layer: str | None, teacher_layer: str | None) -> Loss:
    """The loss with what `pair` needs; raises UsageError if a layer of one model alone is named."""
    if student_layer is None and teacher_layer is None:
        return replace(loss, needs_teacher=True)
    if student_layer is None or teacher_layer is None:
        raise UsageError("name a layer of both student and teacher, or of neither, which stands for their outputs")
    return replace(loss, student_taps=(student_layer,), teacher_taps=(teacher_layer,))


def _distances(features: torch.Tensor) -> torch.Tensor:
    """Distances of all pairs, divided by their mean; zeros where all samples are the same."""
    distances = F.pdist(features)
    mean = distances.sum() / max(len(distances), 1)
    return distances / mean.masked_fill(mean == 0, math.inf)


def _cosines(features: torch.Tensor) -> torch.Tensor:
    """cos of the angle at sample j between i and k, (j, i, k); 0 where two of them are the same."""
    directions = unit(features[None] - features[:, None])
    cosines: torch.Tensor = directions @ directions.transpose(1, 2)
    return cosines
