"""Mixing keeps exactly the share that it tells, is drawn as published, and depends on step and pair alone."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import beta, kstest

from polymask import Step, Tokens, UserError
from polymask.nn.mixup import Mixup, require_grid
from polymask.nn.positions import coordinates

STEP = Step(3, 10, seed=5)


def tokens(n: int = 6, grid: tuple[int, ...] = (4, 6)) -> Tokens:
    """Sample k holds the number k everywhere."""
    values = torch.arange(float(n))[:, None, None].expand(n, math.prod(grid), 2)
    return Tokens(values, coordinates(grid).expand(n, -1, -1), grid)


def test_mixup_is_the_mean_of_two_samples_by_the_share() -> None:
    given, ids = tokens(), torch.arange(6)
    mixed, share = Mixup(0.8, 0.0)(given, ids, STEP)
    expected = share * torch.arange(6.0) + (1 - share) * torch.arange(6.0).flip(0)
    torch.testing.assert_close(mixed.values, expected[:, None, None].expand_as(given.values))
    assert len(share.unique()) == 6


@pytest.mark.parametrize("grid", [(4, 6), (24,), (2, 3, 4)])
def test_cutmix_puts_a_box_of_the_other_and_tells_what_is_left(grid: tuple[int, ...]) -> None:
    given, ids = tokens(64, grid), torch.arange(64)
    mixed, share = Mixup(0.0, 1.0)(given, ids, STEP)
    own = mixed.values == given.values
    torch.testing.assert_close(own.float().mean((1, 2)), share)
    other = torch.where(own, given.values.flip(0), mixed.values)
    assert torch.equal(other, given.values.flip(0))
    for row in ~own[..., 0].view(64, *grid):
        lengths = [
            int(row.any(dim=[a for a in range(row.dim()) if a != axis]).sum()) for axis in range(row.dim())
        ]
        assert int(row.sum()) == math.prod(lengths)  # a box
    assert (share < 1).float().mean() > 0.8


@pytest.mark.parametrize("alpha", [0.3, 0.8, 1.0, 2.0])
def test_shares_have_the_beta_distribution(alpha: float) -> None:
    _, share = Mixup(alpha, 0.0)(tokens(4000, (1, 1)), torch.arange(4000), STEP)
    assert kstest(share.numpy(), beta(alpha, alpha).cdf).pvalue > 0.001


def test_boxes_cover_as_much_as_published() -> None:
    """A box of the share 1 - s, its centre anywhere, cut at the borders."""
    _, share = Mixup(0.0, 1.0)(tokens(4000, (32, 32)), torch.arange(4000), STEP)
    # along an axis a box of side r covers r - r^2 / 4 of it on average, and r^2 = 1 - s is uniform
    r = torch.linspace(0, 1, 10001).sqrt()
    expected = float(((r - r**2 / 4) ** 2).mean())
    assert float(1 - share.mean()) == pytest.approx(expected, abs=0.015)


def test_both_take_turns_by_the_toss_of_a_coin() -> None:
    given = tokens(2000)
    mixed, _ = Mixup(0.8, 1.0)(given, torch.arange(2000), STEP)
    blended = (mixed.values[:, 0, 0] % 1 != 0).float().mean()
    assert 0.45 < blended < 0.55


def test_the_same_pair_at_the_same_step_is_mixed_alike_in_any_batch() -> None:
    mix, given, ids = Mixup(0.8, 1.0), tokens(), torch.tensor([7, 3, 9, 4, 1, 5])
    mixed, share = mix(given, ids, STEP)
    inner = Tokens(given.values[1:5], given.position[1:5], given.grid)
    again, its = mix(inner, ids[1:5], STEP)
    assert torch.equal(again.values, mixed.values[1:5]) and torch.equal(its, share[1:5])
    assert not torch.equal(mix(given, ids, Step(4, 10, seed=5))[1], share)


def test_what_cannot_be_mixed_is_refused() -> None:
    given = tokens()
    ids = Tokens(given.values, given.position, given.grid, ids=torch.zeros(6, 24).long())
    padded = Tokens(given.values, given.position, given.grid, valid=torch.ones(6, 24).bool())
    for bad in (Tokens(given.values, given.position), ids, padded):
        with pytest.raises(UserError, match="mixup and cutmix need numbers on a grid that all samples share"):
            require_grid(bad)
    require_grid(given)
