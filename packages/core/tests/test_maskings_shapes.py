"""Maskings whose hidden sites go together: cells, blocks and spans."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import Request, Step, UserError
from polymask.maskings import Block, Random, Span
from polymask.maskings.block import block_sizes, enough, sizes_for

STEP = Step(index=3, total=10, seed=1)


def ask(*grid: int, n: int = 64, **options: Any) -> Request:
    return Request(torch.arange(n), math.prod(grid), STEP, **{"grid": grid, **options})


def touching(hidden: Tensor, *, axes: int) -> float:
    """Share of the sites that have a like one beside them, round the edges: ``[B, *grid]``."""
    dims = range(1, axes + 1)
    beside = torch.stack([hidden.roll(step, dim) for dim in dims for step in (1, -1)]).any(0)
    return float((beside & hidden).sum() / hidden.sum())


# ---------------------------------------------------------------- cells


@pytest.mark.parametrize(("grid", "cell"), [((8, 8), 2), ((6, 9), 3), ((12,), 4), ((4, 4, 6), 2)])
def test_cells_are_hidden_or_kept_whole(grid: tuple[int, ...], cell: int) -> None:
    mask = Random(ratio=0.5, cell=cell)(ask(*grid))
    shape = [length for n in grid for length in (n // cell, cell)]
    cells = mask.hidden.view(-1, *shape).float().mean(dim=list(range(2, 2 * len(grid) + 1, 2)))
    assert ((cells == 0) | (cells == 1)).all()
    assert (cells.flatten(1).sum(1) == round(0.5 * cells[0].numel() + 1e-9)).all()


def test_simmim_rounds_cells_up() -> None:
    """21.6 of 36 cells of 2 x 2 patches."""
    assert Random(ratio=0.6, cell=2, rounding="up")(ask(12, 12)).count == 22 * 4
    assert Random(ratio=0.6, cell=2)(ask(12, 12)).count == 22 * 4
    assert Random(ratio=0.59, cell=2, rounding="up")(ask(12, 12)).count == 22 * 4
    assert Random(ratio=0.59, cell=2)(ask(12, 12)).count == 21 * 4


def test_cells_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="cells of 4 tokens do not tile the token grid of 8 x 6: .* of 2"):
        Random(cell=4)(ask(8, 6))
    with pytest.raises(UserError, match="need tokens on a grid"):
        Random(cell=2)(ask(8, 8, grid=None))
    with pytest.raises(UserError, match="padded"):
        Random(cell=2)(ask(4, 4, valid=torch.ones(64, 16, dtype=torch.bool)))
    with pytest.raises(UserError, match="hides everything"):
        Random(cell=4)(ask(4, 4))
    with pytest.raises(UserError, match="cell must be 1 or more"):
        Random(cell=0)


# ---------------------------------------------------------------- blocks


@pytest.mark.parametrize("grid", [(40,), (14, 14), (8, 24), (4, 8, 8), (3, 3, 4, 4)])
@pytest.mark.parametrize("inverse", [False, True])
def test_blocks_lie_together_on_any_number_of_axes(grid: tuple[int, ...], inverse: bool) -> None:
    hidden = Block(ratio=0.5, inverse=inverse)(ask(*grid)).hidden.view(-1, *grid)
    chance = Random(ratio=0.5)(ask(*grid)).hidden.view(-1, *grid)
    same = [touching(half, axes=len(grid)) for half in (hidden, ~hidden, chance)]
    assert min(same[:2]) > 0.93 and min(same[:2]) > same[2]
    # neighbours agree far more often than the half of the time that chance gives
    agree = [
        (x == x.roll(1, dim)).float().mean() for x in (hidden, chance) for dim in range(1, len(grid) + 1)
    ]
    assert min(agree[: len(grid)]) > 0.62 and max(agree[len(grid) :]) < 0.52


def test_inverse_blocks_are_those_of_data2vec2() -> None:
    """39 of 196 patches kept, in squares of 3: over 90 % touch another kept one, by chance 59 %."""
    mask = Block(ratio=0.8, side=3, inverse=True)(ask(14, 14, n=512))
    assert mask.visible == 39
    assert touching(~mask.hidden.view(-1, 14, 14), axes=2) > 0.9
    chance = Random(ratio=0.8)(ask(14, 14, n=512))
    assert 0.54 < touching(~chance.hidden.view(-1, 14, 14), axes=2) < 0.64
    assert Block(ratio=0.8, side=3, inverse=True)(ask(8, 8)).visible == 13


@pytest.mark.parametrize(("side", "ratio", "inverse"), [(2, 0.4, False), (3, 0.3, False), (3, 0.7, True)])
def test_all_blocks_but_the_last_are_whole(side: int, ratio: float, inverse: bool) -> None:
    mask = Block(ratio=ratio, side=side, inverse=inverse)(ask(9, 9, n=256))
    hidden = (mask.invert() if inverse else mask).hidden.view(-1, 9, 9)
    corner = torch.ones_like(hidden)
    for down in range(side):
        for right in range(side):
            corner &= hidden.roll((-down, -right), (1, 2))
    whole = torch.zeros_like(hidden)
    for down in range(side):
        for right in range(side):
            whole |= corner.roll((down, right), (1, 2))
    left_over = (hidden & ~whole).flatten(1).sum(1)
    assert left_over.max() < side * side
    assert (left_over > 0).any() and (left_over == 0).any()


def test_one_block_of_the_whole_count_is_one_rectangle() -> None:
    hidden = Block(ratio=9 / 49, side=3)(ask(7, 7, n=128)).hidden.view(-1, 7, 7)
    assert (hidden.any(1).sum(1) == 3).all() and (hidden.any(2).sum(1) == 3).all()


def test_the_count_is_reached_though_blocks_be_unlucky(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polymask.maskings.block.enough", lambda area, share: 2)
    mask = Block(ratio=0.9, side=1)(ask(6, 6))
    assert (mask.hidden.sum(1) == 32).all()


@pytest.mark.slow
def test_enough_blocks_are_drawn() -> None:
    """Without the block over the whole grid that closes every draw, hardly one in a hundred falls short."""
    for ratio, options in ((0.4, {}), (0.9, {"scale": (0.05, 0.05)}), (0.8, {"side": 1})):
        block = Block(ratio=ratio, **options)
        sizes, area = sizes_for((14, 14), block.scale, block.aspect, block.side)
        drawn = enough(area, ratio) - 1
        short = 0
        generator = torch.Generator().manual_seed(0)
        for _ in range(100):
            covered = torch.zeros(14, 14, dtype=torch.bool)
            for index in torch.randint(len(sizes), (drawn,), generator=generator).tolist():
                start = torch.randint(14, (2,), generator=generator).tolist()
                one = torch.zeros_like(covered)
                one[: sizes[index][0], : sizes[index][1]] = True
                covered |= one.roll(start, (0, 1))
            short += bool(covered.sum() < ratio * 196)
        assert short <= 1, (ratio, short)


def test_block_sizes_span_scale_and_aspect() -> None:
    sizes = block_sizes((100, 100), (0.04, 0.16), (0.25, 4.0))
    areas = [h * w / 10_000 for h, w in sizes]
    ratios = [h / w for h, w in sizes]
    assert len(sizes) == 64
    assert 0.04 < min(areas) < 0.05 and 0.15 < max(areas) < 0.16
    assert sum(areas) / 64 == pytest.approx(0.1, rel=0.01)
    assert 0.25 < min(ratios) < 0.32 and 3.1 < max(ratios) < 4.0
    assert sum(map(math.log, ratios)) == pytest.approx(0, abs=2)
    assert sum(h * w for h, w in block_sizes((14, 14), (0.15, 0.2), (0.75, 1.5))) / 64 / 196 == pytest.approx(
        0.175, rel=0.03
    )


def test_an_axis_too_short_leaves_its_part_to_the_others() -> None:
    sizes = block_sizes((4, 100), (0.5, 0.5), (1.0, 1.0))
    assert set(sizes) == {(4, 50)}
    assert set(block_sizes((100, 4), (0.5, 0.5), (1.0, 1.0))) == {(50, 4)}
    assert set(block_sizes((2, 50, 50), (0.2, 0.2), (1.0, 1.0))) == {(2, 22, 23)}
    assert set(block_sizes((1, 1), (0.1, 0.4), (0.3, 3.3))) == {(1, 1)}
    assert all(1 <= h <= 3 and 1 <= w <= 5 for h, w in block_sizes((3, 5), (0.01, 1.0), (0.01, 100.0)))


def test_blocks_on_one_axis_are_as_long_as_their_share() -> None:
    assert set(block_sizes((50,), (0.2, 0.2), (1.0, 1.0))) == {(10,)}
    assert sorted({n for (n,) in block_sizes((50,), (0.1, 0.3), (1.0, 1.0))}) == list(range(5, 16))


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"scale": (0.4, 0.1)}, "scale must be"),
    ({"scale": (0.0, 0.1)}, "scale must be"),
    ({"scale": (0.1, 1.1)}, "scale must be"),
    ({"aspect": (2.0, 1.0)}, "aspect must be"),
    ({"aspect": (0.0, 1.0)}, "aspect must be"),
    ({"side": 0}, "side must be"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES)
def test_impossible_blocks_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Block(**options)


def test_blocks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        UserError, match="blocks of 5 sites do not fit into a grid of 4 x 8: give a smaller --masking.side"
    ):
        Block(side=5)(ask(4, 8))
    with pytest.raises(UserError, match="core/block needs tokens on a grid"):
        Block()(ask(32, grid=None))


# ---------------------------------------------------------------- spans


def runs(row: Tensor) -> list[int]:
    """Lengths of the runs of True, round the end."""
    if row.all() or not row.any():
        return [int(row.sum())]
    row = row.roll(-int((~row).nonzero()[0, 0]))
    return [len(run) for run in "".join("#" if x else " " for x in row.tolist()).split()]


@pytest.mark.parametrize(
    ("sites", "length", "ratio"), [(100, 10, 0.5), (49, 4, 0.65), (30, 3, 0.1), (20, 20, 0.4)]
)
def test_all_spans_but_the_last_are_whole(sites: int, length: int, ratio: float) -> None:
    mask = Span(ratio=ratio, length=length)(ask(sites))
    assert mask.count == math.floor(ratio * sites + 0.5 + 1e-9)
    assert all(sum(run < length for run in runs(row)) <= 1 for row in mask.hidden)
    assert len({len(runs(row)) for row in mask.hidden}) > 1 or ratio * sites <= length


def test_spans_of_padded_rows_go_round_their_own_end() -> None:
    lengths = torch.arange(64) % 21 + 20
    valid = torch.arange(40) < lengths[:, None]
    hidden = Span(ratio=0.5, length=4)(ask(40, valid=valid)).hidden
    for row, n in zip(hidden, lengths.tolist(), strict=True):
        assert row.sum() == (n + 1) // 2
        assert sum(run < 4 for run in runs(row[:n])) <= 1


def test_spans_pass_over_padding_in_the_middle() -> None:
    valid = torch.ones(64, 40, dtype=torch.bool)
    valid[:, 10:15] = False
    hidden = Span(ratio=0.4, length=5)(ask(40, valid=valid)).hidden
    assert all(sum(run < 5 for run in runs(row[valid[0]])) <= 1 for row in hidden)


def test_span_of_a_grid_takes_it_row_by_row() -> None:
    whole, flat = Span(length=4)(ask(6, 8)), Span(length=4)(ask(48, grid=None))
    assert torch.equal(whole.hidden, flat.hidden)


def test_spans_lie_together() -> None:
    hidden = Span(ratio=0.5, length=10)(ask(100)).hidden
    chance = Random(ratio=0.5)(ask(100)).hidden
    agree = [float((x == x.roll(1, 1)).float().mean()) for x in (hidden, chance)]
    assert agree[0] > 0.9 and agree[1] < 0.52


def test_impossible_spans_are_refused() -> None:
    with pytest.raises(UserError, match="spans of 10 do not fit into 8 sites; choose a shorter length"):
        Span(length=10)(ask(8))
    with pytest.raises(UserError, match="length must be 1 or more"):
        Span(length=0)
