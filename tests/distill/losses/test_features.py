from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgekd.distill.losses import (
    Loss,
    Signals,
    adversarial,
    attention_transfer,
    feature_mse,
    hint,
    rkd_angle,
    rkd_distance,
    similarity_preserving,
)
from edgekd.distill.losses.features import pooled, regressor
from edgekd.errors import UsageError

NOTHING = torch.zeros(0)


def tapped(student: torch.Tensor, teacher: torch.Tensor) -> Signals:
    return Signals(NOTHING, NOTHING, student_taps={"a": student}, teacher_taps={"b": teacher})


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def huber(difference: np.ndarray | float) -> np.ndarray:
    size = np.abs(difference)
    return np.where(size < 1, size**2 / 2, size - 0.5)


def test_feature_mse_is_the_mean_squared_difference() -> None:
    mine, theirs = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    assert feature_mse("a", "b").compute(tapped(mine, theirs)).item() == pytest.approx((4 + 9) / 4)


def test_feature_mse_refuses_layers_of_other_shapes() -> None:
    with pytest.raises(UsageError, match=r"'a' have shape \(2, 3\).*'b' \(2, 1\)"):
        feature_mse("a", "b").compute(tapped(torch.zeros(2, 3), torch.zeros(2, 1)))


def test_hint_is_the_mean_squared_difference_to_what_the_regressor_makes() -> None:
    given = tapped(random(4, 3), random(4, 5, seed=1))
    learned = nn.Linear(3, 5).double()
    weight, bias = (value.detach().numpy() for value in (learned.weight, learned.bias))
    mine, theirs = given.student_taps["a"].numpy(), given.teacher_taps["b"].numpy()
    by_hand = ((mine @ weight.T + bias - theirs) ** 2).mean()
    found = hint("a", "b").compute(Signals(NOTHING, NOTHING, None, *taps(given), learned=learned)).item()
    assert found == pytest.approx(by_hand, rel=1e-12)


def taps(given: Signals) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    return dict(given.student_taps), dict(given.teacher_taps)


@pytest.mark.parametrize(
    ("student", "teacher", "parameters"),
    [
        ((3,), (5,), 3 * 5 + 5),
        ((7, 3), (7, 5), 3 * 5 + 5),
        ((3, 9), (5, 9), 3 * 5 + 5),
        ((3, 9), (5, 6), 3 * 5 * 4 + 5),
        ((3, 8, 8), (5, 8, 8), 3 * 5 + 5),
        ((3, 8, 9), (5, 6, 4), 3 * 5 * 3 * 6 + 5),
    ],
)
def test_a_regressor_brings_features_to_the_teachers_shape(
    student: tuple[int, ...], teacher: tuple[int, ...], parameters: int
) -> None:
    made = regressor(random(2, *student), random(2, *teacher), "a", "b")
    assert made(random(2, *student)).shape == (2, *teacher)
    assert sum(value.numel() for value in made.parameters()) == parameters


@pytest.mark.parametrize(
    ("student", "teacher"),
    [((3,), (5, 2)), ((3, 4, 4), (5, 8, 8)), ((3, 8, 4), (5, 4, 8)), ((2, 2, 2, 2), (2, 2, 2, 2))],
)
def test_layers_that_no_regressor_can_bridge_are_refused(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"'a' gives .* 'b'"):
        regressor(random(2, *student), random(2, *teacher), "a", "b")


def test_attention_by_its_formula() -> None:
    mine, theirs = random(2, 3, 4, 5), random(2, 6, 4, 5, seed=1)
    total = 0.0
    for sample in range(2):
        maps = [(layer[sample].numpy() ** 2).sum(axis=0) for layer in (mine, theirs)]
        student, teacher = (one / np.sqrt((one**2).sum()) for one in maps)
        total += ((student - teacher) ** 2).sum() / 2
    assert attention_transfer("a", "b").compute(tapped(mine, theirs)).item() == pytest.approx(total, rel=1e-12)


def test_attention_by_hand() -> None:
    """Maps (9, 16) and (16, 9) are at a cosine of 288 / 337."""
    mine, theirs = torch.tensor([[[3.0, 0.0], [0.0, 4.0]]]), torch.tensor([[[4.0, 3.0]]])
    assert attention_transfer("a", "b").compute(tapped(mine, theirs)).item() == pytest.approx(2 - 2 * 288 / 337)


def test_attention_does_not_depend_on_the_size_of_features() -> None:
    mine = random(2, 3, 4, 4)
    assert attention_transfer("a", "b").compute(tapped(mine, 7 * mine)).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("shape", "sizes"), [((8, 8), (4, 4)), ((7, 5), (3, 4)), ((5, 6), (5, 2)), ((1, 3), (1, 1))])
def test_maps_are_pooled_like_adaptive_averages(shape: tuple[int, int], sizes: tuple[int, int]) -> None:
    maps = random(3, *shape)
    torch.testing.assert_close(pooled(maps, sizes), F.adaptive_avg_pool2d(maps, sizes))


def test_attention_of_maps_of_other_sizes_is_that_of_the_pooled_ones() -> None:
    mine, theirs = random(2, 3, 8, 8), random(2, 6, 4, 4, seed=1)
    small = F.avg_pool2d(mine.square().sum(dim=1, keepdim=True), 2).sqrt()
    expected = attention_transfer("a", "b").compute(tapped(small, theirs)).item()
    assert attention_transfer("a", "b").compute(tapped(mine, theirs)).item() == pytest.approx(expected, rel=1e-9)
    assert attention_transfer("a", "b").compute(tapped(theirs, mine)).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shapes", [((2, 3), (2, 3)), ((2, 3, 4), (2, 3, 4, 4))])
def test_attention_refuses_what_is_no_map(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(UsageError, match="attention"):
        attention_transfer("a", "b").compute(tapped(*(random(*shape) for shape in shapes)))


def test_distances_by_hand() -> None:
    """A triangle with sides 3, 4, 5 against one with equal sides: 3/4, 1 and 5/4 of the mean against 1."""
    mine = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    theirs = torch.eye(3, dtype=torch.float64)
    found = rkd_distance("a", "b").compute(tapped(mine, theirs)).item()
    assert found == pytest.approx((0.25**2 / 2 + 0.25**2 / 2) / 3)


def test_distances_by_their_formula() -> None:
    mine, theirs = random(6, 2, 3), random(6, 4, seed=1)
    sides = []
    for features in (mine.flatten(1).numpy(), theirs.numpy()):
        distances = np.array([np.linalg.norm(features[i] - features[j]) for i, j in combinations(range(6), 2)])
        sides.append(distances / distances.mean())
    found = rkd_distance("a", "b").compute(tapped(mine, theirs)).item()
    assert found == pytest.approx(huber(sides[0] - sides[1]).mean(), rel=1e-9)


def test_angles_by_hand() -> None:
    """A right triangle with sides 3, 4, 5 against one with equal sides, whose cosines are all 1/2."""
    mine = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    found = rkd_angle("a", "b").compute(tapped(mine, torch.eye(3, dtype=torch.float64))).item()
    assert found == pytest.approx((0.5**2 / 2 + 0.1**2 / 2 + 0.3**2 / 2) / 3)


def test_angles_by_their_formula() -> None:
    mine, theirs = random(5, 3), random(5, 4, seed=1)
    total = []
    for i, j, k in permutations(range(5), 3):
        cosines = []
        for features in (mine.numpy(), theirs.numpy()):
            one, other = features[i] - features[j], features[k] - features[j]
            cosines.append(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
        total.append(huber(cosines[0] - cosines[1]))
    assert rkd_angle("a", "b").compute(tapped(mine, theirs)).item() == pytest.approx(np.mean(total), rel=1e-9)


@pytest.mark.parametrize("make", [rkd_distance, rkd_angle])
def test_relations_do_not_change_where_features_are_turned_moved_or_scaled(make) -> None:  # type: ignore[no-untyped-def]
    mine = random(5, 3)
    turned = torch.linalg.qr(random(3, 3, seed=2)).Q
    given = tapped(mine, 4 * mine @ turned + 2)
    assert make("a", "b").compute(given).item() == pytest.approx(0.0, abs=1e-12)


def test_similarity_by_hand() -> None:
    """Rows (1, 0), (0, 1) of the student's similarities against (1, 1) / sqrt(2) twice."""
    mine, theirs = torch.eye(2, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64)
    half = np.sqrt(0.5)
    by_hand = (2 * (1 - half) ** 2 + 2 * half**2) / 4
    assert similarity_preserving("a", "b").compute(tapped(mine, theirs)).item() == pytest.approx(by_hand)


def test_similarity_by_its_formula() -> None:
    mine, theirs = random(4, 3, 2, 2), random(4, 5, seed=1)
    tables = []
    for features in (mine.flatten(1).numpy(), theirs.numpy()):
        table = features @ features.T
        tables.append(table / np.linalg.norm(table, axis=1, keepdims=True))
    by_hand = ((tables[0] - tables[1]) ** 2).sum() / 4**2
    assert similarity_preserving("a", "b").compute(tapped(mine, theirs)).item() == pytest.approx(by_hand, rel=1e-12)


RELATIONS = [rkd_distance, rkd_angle, similarity_preserving]


@pytest.mark.parametrize("make", RELATIONS)
def test_without_layers_relations_are_those_of_the_outputs(make) -> None:  # type: ignore[no-untyped-def]
    mine, theirs = random(4, 3), random(4, 3, seed=1)
    outputs = make()
    assert outputs.needs_teacher
    assert outputs.student_taps == outputs.teacher_taps == ()
    over_layers: Loss = make("a", "b")
    expected = over_layers.compute(tapped(mine, theirs))
    assert torch.equal(outputs.compute(Signals(mine, NOTHING, theirs)), expected)
    assert not over_layers.needs_teacher


@pytest.mark.parametrize("make", [*RELATIONS, adversarial])
def test_a_layer_of_one_model_alone_is_refused(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match="both"):
        make("a", None)
    with pytest.raises(UsageError, match="both"):
        make(None, "b")
