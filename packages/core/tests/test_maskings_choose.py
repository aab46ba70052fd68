"""Exact counts and total orders."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from polymask import Step, UserError
from polymask.maskings.choose import (
    ABOVE,
    hidden_count,
    hidden_counts,
    hide_last,
    hide_last_valid,
    share,
    unique_keys,
)

INF, NAN = float("inf"), float("nan")


def test_a_share_is_rounded_from_the_number_as_it_is_written() -> None:
    """Halves go up, though 0.7 * 45 is 31.499999999999996 and int(100 * (1 - 0.9)) is 9."""
    for hundredths in range(1, 100):
        ratio = hundredths / 100
        for n in range(1, 300):
            exact = Fraction(hundredths, 100) * n
            assert share(ratio, n) == (exact + Fraction(1, 2)).__floor__(), (ratio, n)
            assert share(ratio, n, "up") == exact.__ceil__(), (ratio, n)


def test_a_share_of_many_equals_the_share_of_each() -> None:
    n = torch.arange(5000)
    for ratio in (0.0, 0.1, 1 / 3, 0.7, 1.0):
        for rounding in ("nearest", "up"):
            assert share(ratio, n, rounding).tolist() == [share(ratio, int(i), rounding) for i in n]
    assert share(0.0, 10) == 0 and share(1.0, 10) == 10
    assert share(0.3, (1 << 22) - 1) == round(0.3 * ((1 << 22) - 1))


def test_counts_that_hide_nothing_or_all_are_refused() -> None:
    assert hidden_count(0.9, 100) == 90 and hidden_count(0.29, 100) == 29
    with pytest.raises(UserError, match="hides nothing"):
        hidden_count(0.04, 12)
    with pytest.raises(UserError, match="hides everything"):
        hidden_count(0.96, 12)


def test_counts_of_rows_leave_one_site_of_either_kind() -> None:
    valid = torch.arange(8) < torch.arange(9)[:, None]
    assert hidden_counts(0.9, valid).tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7]
    assert hidden_counts(0.1, valid).tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 1]


def test_keys_are_distinct_and_sort_at_random() -> None:
    bits = Step(1, 2, 3).bits(torch.arange(2000), 12)
    keys = unique_keys(bits)
    assert all(len(row.unique()) == 12 for row in keys[:50])
    assert keys.min() >= 0 and keys.max() < ABOVE
    assert all(len(row.unique()) == 12 for row in unique_keys(torch.zeros_like(bits))[:2])
    # each site leads each order equally often
    lead = torch.bincount(keys.argmin(1), minlength=12).double()
    assert float((lead - 2000 / 12).square().sum() / (2000 / 12)) < 11 + 5 * 22**0.5
    room = unique_keys(bits, room=7)
    assert (room & 127 == 0).all() and all(len(row.unique()) == 12 for row in room[:50])


def test_ranked_keys_sort_like_rank_then_chance() -> None:
    values = [-INF, -3.4e38, -1.0, -1e-40, -0.0, 0.0, 1e-40, 1.0, 3.4e38, INF, NAN, -NAN]
    rank = torch.tensor([values]).repeat(4000, 1)
    keys = unique_keys(Step().bits(torch.arange(4000), 12), rank)
    order = keys.argsort(dim=1)
    assert all(len(row.unique()) == 12 for row in keys[:50])
    by_place = [set(order[:, place].tolist()) for place in range(12)]
    assert by_place == [{0}, {1}, {2}, {3}, {4, 5}, {4, 5}, {6}, {7}, {8}, {9}, {10, 11}, {10, 11}]
    assert abs(float((order[:, 4] == 4).float().mean()) - 0.5) < 0.04


def test_ranked_keys_take_any_float() -> None:
    bits = Step().bits(torch.arange(3), 5)
    rank = torch.tensor([[0.5, -2.0, 8.0, 0.25, -0.125]]).expand(3, 5)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        assert torch.equal(unique_keys(bits, rank.to(dtype)), unique_keys(bits, rank))


def test_keys_of_a_sample_sort_alike_whatever_the_padding() -> None:
    ids, step = torch.arange(256), Step()
    for tied in (None, torch.zeros(256, 2000)):
        short = unique_keys(step.bits(ids, 500), None if tied is None else tied[:, :500]).argsort(1)
        long = unique_keys(step.bits(ids, 2000), tied)[:, :500].argsort(1)
        assert torch.equal(short, long)


def test_the_last_are_hidden() -> None:
    keys = torch.tensor([[5, 1, 9, 3], [0, 2, 4, 6]])
    for count, hidden in ((0, [[], []]), (1, [[2], [3]]), (2, [[0, 2], [2, 3]]), (3, [[0, 2, 3], [1, 2, 3]])):
        mask = hide_last(keys, count)
        assert [row.nonzero().flatten().tolist() for row in mask.hidden] == hidden
        assert mask.count == count


def test_the_last_of_the_real_are_hidden() -> None:
    keys = torch.tensor([[5, 1, 0, 3], [7, 2, 4, 6], [1, 2, 3, 4]])
    valid = torch.tensor([[True, True, False, True], [False, True, True, True], [False] * 4])
    mask = hide_last_valid(keys, torch.tensor([1, 2, 0]), valid)
    assert [row.nonzero().flatten().tolist() for row in mask.hidden] == [[0], [2, 3], []]
    assert not hide_last_valid(keys, torch.tensor([0, 0, 0]), valid).hidden.any()
