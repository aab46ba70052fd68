from __future__ import annotations

import pytest
import torch

from polymask import UserError
from polymask.training import TrainOptions
from polymask.training.order import Batches, Order, mix
from polymask.training.plan import make_plan

N = 23


def stream(batches):
    return [key for part in batches for key in part]


def plan_of(world=1, accumulate=1, samples=N, **options):
    usual = {"steps": 9, "batch_size": 12, "accumulate": accumulate, "seed": 5}
    return make_plan(TrainOptions(**{**usual, **options}), samples, world)


def test_every_epoch_is_a_permutation_of_its_own():
    keys = Order(N, seed=5).keys(0, 4 * N)
    epochs = [[sample for epoch, sample in keys if epoch == e] for e in range(4)]
    assert [epoch for epoch, _ in keys] == [e for e in range(4) for _ in range(N)]
    assert all(sorted(epoch) == list(range(N)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert Order(N, seed=6).keys(0, N) != keys[:N]


@pytest.mark.parametrize("start", [0, 1, 22, 23, 50])
def test_starting_anywhere_equals_skipping(start):
    order = Order(N, seed=5)
    order.keys(70, 3)  # what was asked before does not matter
    assert order.keys(start, 40) == Order(N, seed=5).keys(0, start + 40)[start:]


@pytest.mark.parametrize("samples", [240, 247])
def test_samples_of_like_length_meet(samples):
    """Little is padded, every epoch still has every sample once, and long batches come at any time."""
    lengths = torch.randint(1, 100, (samples,), generator=torch.Generator().manual_seed(0))
    keys = Order(samples, 5, lengths, batch_size=12).keys(0, 4 * samples)
    for epoch in range(4):
        assert sorted(s for e, s in keys if e == epoch) == list(range(samples))
    found = lengths[torch.tensor([s for _, s in keys])].split(12)
    chance = lengths[torch.tensor([s for _, s in Order(samples, 5).keys(0, 4 * samples)])].split(12)
    padded, unsorted = (sum(len(b) * int(b.max()) - int(b.sum()) for b in bs) for bs in (found, chance))
    assert padded < 0.15 * unsorted
    means = torch.stack([b.float().mean() for b in found[:20]])
    rank = means.argsort().argsort().float()
    assert torch.corrcoef(torch.stack([rank, torch.arange(20.0)]))[0, 1].abs() < 0.7
    order = Order(samples, 5, lengths, batch_size=12)
    assert order.keys(500, 100) == keys[500:600]


@pytest.mark.parametrize("batch", [2, 9, 12, 15, 22, 23])
@pytest.mark.parametrize("samples", [23, 24, 40, 250])
@pytest.mark.parametrize("ragged", [False, True])
def test_no_step_has_a_sample_twice(samples, batch, ragged):
    """Epochs stay permutations, and where one begins within a step does not depend on what was asked."""
    lengths = torch.arange(samples) * 7 % 11 if ragged else None
    order = Order(samples, 5, lengths, batch, window=3)
    steps = [order.step(step) for step in range(8 * samples // batch)]
    assert all(len({sample for _, sample in step}) == batch for step in steps)
    keys = [key for step in steps for key in step]
    for epoch in range(7):
        assert sorted(s for e, s in keys if e == epoch) == list(range(samples))
    for step in (len(steps) - 1, len(steps) // 2, 1):
        assert Order(samples, 5, lengths, batch, window=3).step(step) == steps[step]
        assert order.step(step) == steps[step]


def test_resume_from_any_step():
    whole = list(Batches(plan_of(accumulate=2)))
    for step in (0, 1, 4, 8):
        batches = Batches(plan_of(accumulate=2), start=step)
        assert list(batches) == whole[2 * step :]
        assert len(batches) == len(whole) - 2 * step


@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (1, 2), (2, 3), (4, 3)])
def test_processes_and_parts_share_each_step(world, accumulate):
    alone = list(Batches(plan_of()))
    ranks = [Batches(plan_of(world, accumulate), rank) for rank in range(world)]
    for step, expected in enumerate(alone):
        shares = [ranks[r].keys(step, part) for part in range(accumulate) for r in range(world)]
        assert [key for share in shares for key in share] == expected
        assert {len(share) for share in shares} == {12 // world // accumulate}


def test_a_part_holds_the_same_samples_on_any_number_of_processes():
    one = Batches(plan_of(1, 3))
    two = [Batches(plan_of(2, 3), rank) for rank in range(2)]
    for step in range(9):
        for part in range(3):
            assert one.keys(step, part) == two[0].keys(step, part) + two[1].keys(step, part)


def test_all_samples_are_used_alike():
    keys = stream(Batches(plan_of(steps=N)))  # 12 epochs
    counts = [sum(sample == i for _, sample in keys) for i in range(N)]
    assert counts == [12] * N


def test_mix_separates_its_words():
    found = {mix(a, b, c) for a in range(8) for b in range(8) for c in range(8)}
    assert len(found) == 512
    assert all(0 <= x < 2**63 for x in found)
    assert mix(1, 2) != mix(2, 1)
    bits = [bin(mix(3, i) ^ mix(3, i + 1)).count("1") for i in range(500)]
    assert 29 < sum(bits) / len(bits) < 34  # half of 63 bits change when one word does


def growing(step):
    """The first half of the samples until half of the run, all of them from then on."""
    return (torch.arange(N) < (N // 2 + 1 if step.progress < 0.5 else N)).float()


def test_weights_decide_which_samples_come_when():
    batches = Batches(plan_of(steps=40), weights=growing)
    steps = [[sample for _, sample in batches.keys(step, 0)] for step in range(40)]
    assert all(len(set(step)) == 12 for step in steps)
    assert {sample for step in steps[:20] for sample in step} == set(range(12))
    assert {sample for step in steps[20:] for sample in step} == set(range(N))
    assert len({tuple(step) for step in steps}) == 40
    assert all(epoch == 7 for epoch, _ in batches.keys(7, 0))  # so that augmentation differs by step


def test_samples_are_drawn_in_proportion_to_their_weight():
    weights = torch.tensor([8.0, 4.0, 2.0, 1.0, 1.0])
    plan = plan_of(samples=5, batch_size=1, steps=4000)
    batches = Batches(plan, weights=lambda step: weights)
    drawn = torch.tensor([batches.keys(step, 0)[0][1] for step in range(4000)]).bincount(minlength=5)
    expected = 4000 * weights / 16
    assert ((drawn - expected).square() / expected).sum() < 18.5  # chi-square, 4 degrees, p = 0.001


@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (1, 2), (2, 3)])
def test_weighted_samples_too_are_the_same_on_any_number_of_processes(world, accumulate):
    alone = Batches(plan_of(), weights=growing)
    ranks = [Batches(plan_of(world, accumulate), rank, weights=growing) for rank in range(world)]
    for step in range(9):
        shares = [ranks[r].keys(step, part) for part in range(accumulate) for r in range(world)]
        assert [key for share in shares for key in share] == alone.keys(step, 0)


def test_weights_that_cannot_be_are_told():
    few = Batches(plan_of(), weights=lambda step: (torch.arange(N) < 5).float())
    with pytest.raises(UserError, match="5 samples, fewer than the batch of 12"):
        few.keys(0, 0)
    short = Batches(plan_of(), weights=lambda step: torch.ones(3))
    with pytest.raises(UserError, match="for 23 samples"):
        short.keys(0, 0)
