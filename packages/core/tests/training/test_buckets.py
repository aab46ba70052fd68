"""Batches of about equal tokens: never more than asked for, little padded, every sample once."""

from __future__ import annotations

import pytest
import torch

from polymask import UserError
from polymask.training import TrainOptions
from polymask.training.buckets import Buckets
from polymask.training.order import Batches
from polymask.training.plan import make_plan

N, BUDGET = 3000, 4000
LENGTHS = torch.randint(3, 400, (N,), generator=torch.Generator().manual_seed(0))


def plan_of(world=1, accumulate=1, lengths=LENGTHS, **options):
    usual = {"epochs": 2, "batch_tokens": BUDGET, "accumulate": accumulate, "seed": 5}
    return make_plan(TrainOptions(**{**usual, **options}), len(lengths), world, lengths)


def batches_of(plan, lengths=LENGTHS, **where):
    return Batches(plan, lengths=lengths, **where)


def test_a_batch_has_about_the_tokens_asked_for_and_never_more():
    plan = plan_of()
    batches = [LENGTHS[torch.tensor([s for _, s in keys])] for keys in batches_of(plan)]
    padded = torch.tensor([len(b) * int(b.max()) for b in batches])
    real = torch.tensor([int(b.sum()) for b in batches])
    assert padded.max() <= BUDGET
    assert padded.float().mean() > 0.9 * BUDGET
    assert 1 - real.sum() / padded.sum() < 0.06
    assert len({len(b) for b in batches}) > 20


def test_an_epoch_has_every_sample_once_and_as_many_steps_as_the_plan_says():
    plan = plan_of()
    assert plan.total % 2 == 0
    steps = list(batches_of(plan))
    assert len(steps) == plan.total
    for epoch in range(2):
        keys = [
            key for step in steps[epoch * plan.total // 2 : (epoch + 1) * plan.total // 2] for key in step
        ]
        assert sorted(keys) == [(epoch, sample) for sample in range(N)]
    first, second = (
        [frozenset(s for _, s in keys) for keys in half]
        for half in (steps[: plan.total // 2], steps[plan.total // 2 :])
    )
    assert len(set(first) & set(second)) < 0.02 * plan.total  # others meet
    assert plan.batch_size == round(N / (plan.total / 2))


def test_long_batches_come_at_any_time():
    means = torch.stack(
        [LENGTHS[torch.tensor([s for _, s in k])].float().mean() for k in batches_of(plan_of(epochs=1))]
    )
    rank = means.argsort().argsort().float()
    assert torch.corrcoef(torch.stack([rank, torch.arange(float(len(rank)))]))[0, 1].abs() < 0.3


def test_the_order_depends_on_the_seed_and_the_step_alone():
    plan = plan_of()
    whole = list(batches_of(plan))
    for start in (0, 7, plan.total // 2, plan.total - 1):
        assert list(batches_of(plan, start=start)) == whole[start:]
    assert list(batches_of(plan_of(seed=6))) != whole


@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (1, 3), (2, 2)])
def test_processes_and_parts_share_each_step_and_none_goes_without(world, accumulate):
    plan = plan_of(world, accumulate)
    ranks = [batches_of(plan, rank=rank) for rank in range(world)]
    alone = batches_of(plan_of(1, world * accumulate))
    assert {len(rank) for rank in ranks} == {plan.total * accumulate}
    for step in range(plan.total):
        shares = [ranks[r].keys(step, part) for part in range(accumulate) for r in range(world)]
        assert shares == [alone.keys(step, part) for part in range(world * accumulate)]
        counts = [len(share) for share in shares]
        assert min(counts) >= 1 and max(counts) - min(counts) <= 1


@pytest.mark.parametrize(
    "lengths", [[5], [1] * 7, [9, 1], [0, 0, 3], [0, 0], [10, 10, 9, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]]
)
@pytest.mark.parametrize("budget", [10, 11, 1000])
def test_few_and_odd_lengths(lengths, budget):
    buckets = Buckets(torch.tensor(lengths), budget)
    batches = buckets.epoch(torch.Generator().manual_seed(0))
    assert sorted(torch.cat(batches).tolist()) == list(range(len(lengths)))
    assert len(batches) == len(buckets)
    assert all(len(b) * max(lengths[i] for i in b) <= budget for b in batches)
    fewest = sum(lengths) / budget
    assert len(buckets) <= max(2 * fewest, 2)


@pytest.mark.parametrize(
    ("lengths", "budget", "least", "sizes"),
    [
        ([10] * 7, 60, 4, [7]),
        ([10] * 8, 60, 4, [4, 4]),
        ([10] * 4 + [1], 20, 2, [2, 3]),
        ([9] * 6, 40, 1, [3, 3]),
    ],
)
def test_every_part_has_a_sample(lengths, budget, least, sizes):
    assert sorted(Buckets(torch.tensor(lengths), budget, least).sizes) == sizes


def test_what_does_not_fit_is_told():
    with pytest.raises(
        UserError, match=r"longest sample has 70 tokens, 2 of them do not fit .*=100: give 140"
    ):
        Buckets(torch.tensor([70, 3]), 100, least=2)
    with pytest.raises(UserError, match="2 samples are too few for 3 parts"):
        Buckets(torch.tensor([7, 3]), 100, least=3)
    with pytest.raises(UserError, match="does not tell how long its samples are"):
        make_plan(TrainOptions(batch_tokens=100), 10)
    weighted = batches_of(plan_of(), weights=lambda step: torch.ones(N))
    with pytest.raises(UserError, match="weighs samples.*--batch_size"):
        weighted.keys(0, 0)
