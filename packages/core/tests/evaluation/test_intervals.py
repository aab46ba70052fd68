"""Intervals against scipy's and against simulation."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from polymask.evaluation.intervals import (
    accuracy_interval,
    difference_interval,
    paired,
    pooled_interval,
    t_interval,
)
from polymask.evaluation.measurements import Measurement


def test_t_interval_is_scipys():
    values = [0.71, 0.74, 0.69, 0.75]
    found = t_interval(values)
    low, high = stats.t.interval(0.95, 3, loc=sum(values) / 4, scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


def test_one_run_says_nothing_about_spread():
    found = t_interval([0.5])
    assert found.mean == 0.5 and math.isnan(found.error)
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert found.verdict == "no difference seen"


@pytest.mark.parametrize(("right", "n"), [(0, 20), (13, 20), (20, 20), (8123, 10000)])
def test_accuracy_interval_is_wilsons(right, n):
    correct = torch.arange(n)[None] < right
    found = accuracy_interval(correct)
    wilson = stats.binomtest(right, n).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high), abs=1e-9)
    assert found.mean == pytest.approx(right / n)


def test_draws_that_disagree_widen_the_interval():
    agree = torch.tensor([[True] * 70 + [False] * 30] * 4)
    disagree = torch.stack([torch.arange(100) < k for k in (50, 60, 80, 90)])
    one, two = accuracy_interval(agree), accuracy_interval(disagree)
    assert one.mean == pytest.approx(two.mean)
    assert two.high - two.low > one.high - one.low
    assert one.error == pytest.approx(accuracy_interval(agree[:1]).error)


def test_tests_of_other_samples_count_together():
    """Equal shares are as one test of all; of unequal ones the spread between tests is no error."""
    parts = [torch.arange(n)[None] < n // 4 for n in (20, 60, 120)]
    found = pooled_interval([accuracy_interval(part) for part in parts], [20, 60, 120])
    whole = accuracy_interval(torch.cat(parts, dim=1))
    assert (found.mean, found.low, found.high) == pytest.approx((whole.mean, whole.low, whole.high))
    easy, hard = torch.arange(50)[None] < 49, torch.arange(150)[None] < 1
    found = pooled_interval([accuracy_interval(easy), accuracy_interval(hard)], [50, 150])
    assert found.mean == pytest.approx(50 / 200)
    assert found.error == pytest.approx(math.sqrt(49 / 50 * 1 / 50 * 50 + 1 / 150 * 149 / 150 * 150) / 200)


def test_difference_is_paired():
    generator = torch.Generator().manual_seed(0)
    easy = torch.rand(1, 2000, generator=generator) < 0.7
    better = easy.clone()
    better[0, torch.nonzero(~easy[0])[:20, 0]] = True
    found = difference_interval(better, easy)
    assert found.mean == pytest.approx(20 / 2000)
    assert found.verdict == "higher" and difference_interval(easy, better).verdict == "lower"
    unpaired = math.hypot(accuracy_interval(better).error, accuracy_interval(easy).error)
    assert found.error < unpaired / 3


def test_t_interval_covers_the_truth_95_times_in_100():
    draws = torch.randn(4000, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    covered = sum(i.low < 0 < i.high for i in (t_interval(row) for row in draws.tolist()))
    assert abs(covered / 4000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)


def test_differences_are_doubted_over_seeds_and_samples_together():
    """Seeds that agree leave the doubt of samples, and no end of samples that of seeds; both add up."""
    generator = torch.Generator().manual_seed(0)
    rows = (torch.rand(3, 400, generator=generator, dtype=torch.float64) < 0.3).double()
    alike = rows[:1].expand(3, -1)
    only_samples = difference_interval(alike, 0 * alike)
    assert only_samples.error == pytest.approx(stats.sem(rows[0].numpy()), rel=0.02)
    flat = torch.tensor([[0.1], [0.2], [0.3]], dtype=torch.float64).expand(3, 200_000)
    found, by_hand = difference_interval(flat, 0 * flat), t_interval([0.1, 0.2, 0.3])
    assert (found.low, found.high) == pytest.approx((by_hand.low, by_hand.high), rel=1e-3)
    both = difference_interval(alike + flat[:, :400], 0 * alike)
    assert both.error == pytest.approx(math.hypot(only_samples.error, found.error), rel=1e-3)


def test_intervals_of_several_comparisons_hold_together():
    values = [0.71, 0.74, 0.69, 0.75]
    low, high = stats.t.interval(1 - 0.05 / 3, 3, loc=sum(values) / 4, scale=stats.sem(values))
    found = t_interval(values, comparisons=3)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("quality", [0.0, 0.5])
def test_equal_variants_are_told_apart_at_most_5_times_in_100(seeds, quality):
    """Of three variants that find other samples easy, one is called better than the first by chance alone."""
    trials, samples = 1500, 40
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    easy = (
        normal(trials, 1, 1, samples) + normal(trials, 4, 1, samples) + quality * normal(trials, 4, seeds, 1)
    )
    chance = torch.rand(trials, 4, 1 if not quality else seeds, samples, generator=generator)
    right = (chance < torch.sigmoid(easy)).double()
    mean, _, half = paired(right[:, 1:] - right[:, :1], comparisons=3)
    called = float((mean.abs() > half).any(1).double().mean())
    assert called < 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_share_is_within_its_interval_however_it_is_rounded(share):
    for n in range(1, 200):
        found = accuracy_interval(torch.full((1, n), share))
        assert 0 <= found.low <= found.mean == share <= found.high <= 1


def test_a_difference_of_shares_is_between_minus_one_and_one():
    found = difference_interval(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
    assert (found.low, found.high) == (-1, 1)


def test_shares_of_answers_stay_within_0_and_1() -> None:
    found = Measurement.share("pre-trained", "accuracy", [1.0, 0.0])
    wilson = accuracy_interval(torch.tensor([[1.0, 0.0]]))
    assert (found.value, found.low, found.high) == (0.5, wilson.low, wilson.high)
    assert found.low is not None and found.high is not None and 0 < found.low < 0.5 < found.high < 1
    one = Measurement.share("pre-trained", "AP", [1.0])
    assert one.value == one.high == 1 and one.low is not None and 0 < one.low < 1
    parts = Measurement.share("pre-trained", "mIoU", [0.2, 0.4, 0.3, 0.3])
    assert parts.value == pytest.approx(0.3) and parts.low is not None and 0 < parts.low < 0.3
