"""Masks that are the same at all times, and V-JEPA's two families of blocks."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import Request, Step, UserError
from polymask.maskings import Block, MultiBlock, Random, TopScore, Tube, TubeBlocks
from polymask.maskings.tube import truncated

GRID = (8, 14, 14)


def ask(grid: tuple[int, ...] = GRID, n: int = 24, **options: Any) -> Request:
    sites = math.prod(grid)
    return Request(torch.arange(n), sites, **{"step": Step(3, 1000, 0), "grid": grid, **options})


def at_all_times(hidden: Tensor, grid: tuple[int, ...]) -> bool:
    by_time = hidden.view(len(hidden), grid[0], -1)
    return bool((by_time == by_time[:, :1]).all())


@pytest.mark.parametrize("grid", [GRID, (4, 6), (3, 2, 4, 4)])
@pytest.mark.parametrize("inner", [Random(ratio=0.75), Block(ratio=0.5, scale=(0.2, 0.3))])
def test_a_tube_is_the_inner_mask_of_the_last_axes_repeated_along_the_first(grid: Any, inner: Any) -> None:
    request = ask(grid)
    mask = Tube(masking=inner)(request)
    sites = math.prod(grid[1:])
    alone = inner(dataclasses.replace(request, grid=grid[1:], sites=sites))
    for time in mask.hidden.view(24, grid[0], sites).unbind(1):
        assert torch.equal(time, alone.hidden)
    assert mask.visible == grid[0] * alone.visible


def test_a_tube_goes_by_the_mean_score_over_time_and_by_places_within_a_slice() -> None:
    score = torch.randn(24, math.prod(GRID), generator=torch.Generator().manual_seed(0))
    mask = Tube(masking=TopScore(ratio=0.25))(ask(score=score))
    mean = score.view(24, 8, 196).mean(1)
    first = mask.hidden.view(24, 8, 196)[:, 0]
    for row in range(24):
        assert mean[row][first[row]].min() > mean[row][~first[row]].max()

    def right_half(request: Request) -> Any:
        assert request.position is not None and request.position.shape == (24, 196, 2)
        return Random(ratio=0.5)(request)

    axes = torch.cartesian_prod(*(torch.arange(float(n)) for n in GRID))
    Tube(masking=right_half)(ask(position=axes.expand(24, -1, -1)))


def test_blocks_are_the_same_at_all_times_and_context_and_targets_share_the_grid() -> None:
    for family in (0, 1):
        mask = TubeBlocks()(ask(stream=family))
        assert at_all_times(mask.hidden, GRID) and mask.visible is None and mask.valid is None
        assert mask.hidden.any(1).all() and not mask.hidden.all(1).any()
        assert not (mask.hidden & mask.invert().hidden).any()
        assert (mask.hidden | mask.invert().hidden).all()


def test_one_block_has_the_area_and_shape_asked_for_and_shares_them_in_a_step() -> None:
    ratios = []
    for step in range(100):
        mask = TubeBlocks(blocks=(1,), scale=(0.15,))(ask(n=8, step=Step(step, 1000)))
        sizes = set()
        for row in mask.hidden.view(8, 8, 14, 14)[:, 0]:
            rows, columns = row.nonzero(as_tuple=True)
            height, width = (int(x.max() - x.min()) + 1 for x in (rows, columns))
            assert height * width == int(row.sum())
            sizes.add((height, width))
        ((height, width),) = sizes
        # k = int(196 * 0.15) = 29 sites, sides rounded
        assert abs(height - math.sqrt(29 * height / width)) <= 1
        ratios.append(height / width)
    assert min(ratios) < 0.9 and max(ratios) > 1.3


def shares(
    masking: TubeBlocks, family: int, grid: tuple[int, ...], n: int = 24
) -> tuple[float, float, float]:
    """Visible, hidden, and visible at the last time, as shares, mean over 150 steps."""
    seen, hidden, last = [], [], []
    for step in range(150):
        mask = masking(ask(grid, n, step=Step(step, 1000), stream=family))
        visible = mask.invert().hidden
        seen.append(visible.float().mean())
        hidden.append(mask.hidden.float().mean())
        last.append(visible.view(n, grid[0], -1)[:, -1].float().mean())
    return tuple(float(torch.stack(x).mean()) for x in (seen, hidden, last))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("family", "whole", "cut", "small"), [(0, 0.372, 0.231, 0.210), (1, 0.188, 0.064, 0.084)]
)
def test_families_hide_what_vjepa_hides_and_truncation_costs_what_it_costs(
    family: int, whole: float, cut: float, small: float
) -> None:
    """Shares found for the published code with 24 samples, within two points; SALT's sheet of numbers."""
    padded, released = TubeBlocks(), TubeBlocks(counts="truncated")
    visible, hidden, last = shares(padded, family, GRID)
    assert visible == pytest.approx(whole, abs=0.02) and visible + hidden == pytest.approx(1)
    assert last == pytest.approx(visible, abs=1e-6)
    kept, scored, last_kept = shares(released, family, GRID)
    assert kept == pytest.approx(cut, abs=0.02)
    # of the context of the last time about a tenth survives, and targets are lost too
    assert last_kept < 0.15 * last and 0.1 < 1 - scored / hidden < 0.3
    assert shares(released, family, (4, 8, 8))[0] == pytest.approx(small, abs=0.025)


def test_truncation_keeps_the_first_of_each_row_and_depends_on_the_rest_of_the_batch() -> None:
    request = ask()
    whole, cut = TubeBlocks()(request), TubeBlocks(counts="truncated")(request)
    assert cut.valid is not None
    for kept, full in ((cut.invert().hidden, whole.invert().hidden), (cut.hidden, whole.hidden)):
        counts = kept.sum(1)
        assert (counts == full.sum(1).min()).all()
        for row in range(24):
            assert torch.equal(kept[row].nonzero()[:, 0], full[row].nonzero()[: counts[0], 0])
    alone = TubeBlocks(counts="truncated")(dataclasses.replace(request, ids=request.ids[:1]))
    assert torch.equal(alone.hidden, whole.hidden[:1])
    again = truncated(whole)
    assert torch.equal(again.hidden, cut.hidden)


def test_blocks_that_would_hide_all_are_left_out_with_those_after_them() -> None:
    """On a row of two columns each block is one of them: the second may be the other."""
    mask = TubeBlocks(blocks=(4,), scale=(0.6,))(ask((2, 1, 2), n=200))
    assert (mask.hidden.view(200, 2, 2)[:, 0].sum(1) == 1).all()
    # the first block stands: each column is hidden in half of the samples
    assert 60 < int(mask.hidden[:, 0].sum()) < 140


def test_families_and_draws_are_told_apart_and_images_have_blocks_too() -> None:
    masks = [TubeBlocks()(ask(stream=stream)).hidden for stream in range(4)]
    assert masks[1].float().mean() > masks[0].float().mean() and not torch.equal(masks[0], masks[2])
    assert abs(masks[2].float().mean() - masks[0].float().mean()) < 0.25
    assert TubeBlocks()(ask((14, 14))).hidden.shape == (24, 196)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": (8,)}, "a number for each family"),
        ({"blocks": (0, 2)}, "blocks 1 or more"),
        ({"scale": (0.15, 1.0)}, "scale must be shares"),
        ({"aspect": (2.0, 1.0)}, "aspect must be two ratios"),
        ({"counts": "exact"}, "choose 'padded' or 'truncated'"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TubeBlocks(**options)


@pytest.mark.parametrize("masking", [Tube(masking=Random()), TubeBlocks()])
def test_what_has_no_grid_or_padding_is_refused(masking: Any) -> None:
    padded = torch.ones(24, math.prod(GRID), dtype=torch.bool)
    for request in (ask((96,)), ask(grid=GRID, valid=padded), dataclasses.replace(ask(), grid=None)):
        with pytest.raises(UserError, match="form a grid without padding"):
            masking(request)
    with pytest.raises(UserError, match="all of a grid of 1 x 1"):
        TubeBlocks()(ask((4, 1, 1)))


def test_multi_block_refuses_video() -> None:
    with pytest.raises(UserError, match="of rows and columns"):
        MultiBlock()(ask())
