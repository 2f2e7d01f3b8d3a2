"""Closed forms: a mean over weighted shares is the mean over the step, whoever takes what."""

import pytest
import torch

from edgekd.distill.batches import Steps, draw, gather
from edgekd.distill.examples import Examples
from edgekd.distill.losses import hard, hard_binary, hard_mse
from edgekd.distill.losses.loss import Signals
from edgekd.errors import UsageError
from edgekd.recipe import Training


def steps(labels: torch.Tensor, rank: int = 0, processes: int = 1, batch: int = 4, accumulation: int = 1) -> Steps:
    return Steps(labels, Training(epochs=1, batch_size=batch, gradient_accumulation=accumulation), rank, processes)


def some_labels(count: int) -> torch.Tensor:
    """A third of them missing, unevenly."""
    random = torch.Generator().manual_seed(1)
    return (torch.arange(count) % 3).masked_fill(torch.rand(count, generator=random) < 0.33, -1)


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("count", [24, 23, 25, 29])
def test_each_sample_is_taken_once_and_shares_are_even(processes: int, accumulation: int, count: int) -> None:
    labels, order = some_labels(count), torch.randperm(count)
    crew = [steps(labels, rank, processes, 8, accumulation) for rank in range(processes)]
    seen = []
    for step in range(crew[0].count):
        taken = [one.shares(order, step) for one in crew]
        assert len({len(shares) for shares in taken}) == 1
        for batch in zip(*taken, strict=True):
            sizes = [len(share.samples) for share in batch]
            known = [int((labels[share.samples] >= 0).sum()) for share in batch]
            assert max(sizes) - min(sizes) <= 1
            assert max(known) - min(known) <= 1
        all_shares = [share for shares in taken for share in shares]
        assert sum(share.weight for share in all_shares) == pytest.approx(len(all_shares))
        assert sum(len(share.samples) for share in all_shares) == crew[0].size(step)
        seen += [sample for share in all_shares for sample in share.samples.tolist()]
    assert len(seen) == len(set(seen)) == crew[0].samples
    assert count - len(seen) in (0, 1)


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("count", [24, 23])
def test_the_mean_of_weighted_shares_is_the_loss_of_the_step(processes: int, accumulation: int, count: int) -> None:
    random = torch.Generator().manual_seed(0)
    order = torch.randperm(count, generator=random)
    outputs = torch.randn(count, 3, generator=random)
    multi = torch.randint(-1, 2, (count, 3), generator=random)
    numbers = torch.where(multi < 0, torch.nan, torch.randn(count, 3, generator=random))
    for loss, labels in ((hard(), some_labels(count)), (hard_binary(), multi), (hard_mse(), numbers)):
        crew = [steps(labels, rank, processes, 8, accumulation) for rank in range(processes)]
        for step in range(crew[0].count):
            shares = [share for one in crew for share in one.shares(order, step)]
            parts = [
                share.weight
                * loss.compute(Signals(outputs[share.samples], labels[share.samples], labelled=share.labelled))
                for share in shares
            ]
            whole = torch.cat([share.samples for share in shares])
            expected = loss.compute(Signals(outputs[whole], labels[whole]))
            torch.testing.assert_close(torch.stack(parts).mean(), expected)


def test_a_step_without_any_label_gives_nothing() -> None:
    labels = torch.full((8,), -1)
    for share in steps(labels, 0, 2, 8).shares(torch.arange(8), 0):
        assert hard().compute(Signals(torch.randn(len(share.samples), 3), labels[share.samples], labelled=0.0)) == 0.0


def test_one_process_takes_the_batch_as_it_is_drawn() -> None:
    order = torch.randperm(10)
    for step, expected in enumerate(order.split(4)):
        (share,) = steps(some_labels(10)).shares(order, step)
        assert torch.equal(share.samples, expected)
        assert (share.weight, share.labelled) == (1.0, None)


def test_no_batch_of_a_step_is_a_single_sample() -> None:
    labels = torch.zeros(11, dtype=torch.int64)
    found = steps(labels, batch=2, accumulation=4).shares(torch.arange(11), 1)
    assert [len(share.samples) for share in found] == [3]


def test_more_processes_than_samples_are_refused() -> None:
    with pytest.raises(UsageError, match="3 training samples"):
        steps(torch.zeros(3, dtype=torch.int64), 0, 4)
    with pytest.raises(UsageError, match="batch_size 4"):
        steps(torch.zeros(30, dtype=torch.int64), 0, 5)


def test_views_are_drawn_alike_from_the_same_state() -> None:
    one, other = (draw(3, 50, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one.order, other.order)
    assert torch.equal(one.views, other.views)
    assert set(one.views.tolist()) == {0, 1, 2}


def test_samples_are_gathered_in_their_views() -> None:
    inputs = torch.arange(12.0).reshape(2, 6, 1)
    examples = Examples(inputs, torch.arange(6), 10.0 * inputs)
    batch = gather(examples, torch.tensor([4, 1]), torch.tensor([1, 0]), torch.device("cpu"))
    assert batch.inputs.tolist() == [[10.0], [1.0]]
    assert batch.labels.tolist() == [4, 1]
    assert batch.teacher is not None
    assert batch.teacher.tolist() == [[100.0], [10.0]]
