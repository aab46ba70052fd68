"""Masks of one sample that belong together (DMJD)."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import Mask, Request, Step, UserError
from polymask.maskings import Block, Disjoint, Random, Ranking, Scheduled, Span, TopScore

STEP = Step(index=3, total=10, seed=1)


def ask(sites: int = 196, grid: tuple[int, ...] | None = (14, 14), n: int = 64, **options: Any) -> Request:
    return Request(torch.arange(n), sites, STEP, grid=grid, **options)


def views(masking: Disjoint, request: Request) -> list[Mask]:
    return [masking(dataclasses.replace(request, stream=view)) for view in range(masking.views)]


def together(masks: list[Mask]) -> Tensor:
    """Sites hidden in at least one view."""
    return torch.stack([mask.hidden for mask in masks]).any(0)


INNER: dict[str, Ranking] = {
    "random": Random(ratio=0.6),
    "random three quarters": Random(ratio=0.75),
    "random half": Random(ratio=0.5),
    "cells": Random(ratio=0.6, cell=2),
    "cells up": Random(ratio=0.51, cell=2, rounding="up"),
    "block": Block(ratio=0.6),
    "block inverse": Block(ratio=0.8, side=3, inverse=True),
    "span": Span(ratio=0.55, length=7),
}
each = pytest.mark.parametrize("name", INNER)


@each
def test_two_views_hide_everything_between_them(name: str) -> None:
    first, second = views(Disjoint(masking=INNER[name]), ask())
    assert (first.hidden | second.hidden).all()
    assert not (~first.hidden & ~second.hidden).any()
    assert first.count == second.count == int(first.hidden[0].sum())
    assert (second.hidden.sum(1) == second.count).all()


@each
def test_the_first_view_is_the_inner_masking(name: str) -> None:
    request = ask()
    assert torch.equal(Disjoint(masking=INNER[name])(request).hidden, INNER[name](request).hidden)


@pytest.mark.parametrize("ratio", [0.75, 0.6])
def test_independent_masks_leave_sites_out(ratio: float) -> None:
    """The control: union of two draws is 1 - (1 - r)^2, .9375 and .84."""
    masks = [Random(ratio=ratio)(ask(n=512, stream=stream)) for stream in (0, 1)]
    assert float(together(masks).float().mean()) == pytest.approx(1 - (1 - ratio) ** 2, abs=0.01)


@pytest.mark.parametrize(
    ("count", "ratio", "sites"),
    [
        (2, 0.5, 49),
        (2, 0.75, 196),
        (3, 1 / 3, 196),
        (3, 0.4, 100),
        (4, 0.75, 196),
        (4, 0.25, 64),
        (5, 0.3, 17),
    ],
)
def test_any_number_of_views_covers_everything_where_the_ratio_allows(
    count: int, ratio: float, sites: int
) -> None:
    masks = views(Disjoint(masking=Random(ratio=ratio), views=count), ask(sites, None))
    assert together(masks).all()
    assert len({mask.count for mask in masks}) == 1
    assert masks[0].count is not None and abs(masks[0].count - ratio * sites) <= 1
    visible = torch.stack([~mask.hidden for mask in masks]).sum(0)
    assert (visible.amax(1) - visible.amin(1)).max() <= 1
    if count * (1 - ratio) <= 1:
        assert visible.max() <= 1
    if ratio == 0.75 and count == 4:
        assert (visible == 1).all()


@pytest.mark.parametrize("name", ["random three quarters", "cells"])
@pytest.mark.parametrize("prediction", [0.8, 0.9, 1.0])
def test_the_share_that_is_predicted_is_exact(name: str, prediction: float) -> None:
    cell = INNER[name].unit(ask())
    hidden = together(views(Disjoint(masking=INNER[name], prediction=prediction), ask()))
    assert (hidden.sum(1) == cell * round(prediction * 196 / cell)).all()


def test_cells_stay_whole_in_every_view() -> None:
    for mask in views(Disjoint(masking=Random(ratio=0.6, cell=2), prediction=0.9), ask()):
        cells = mask.hidden.view(-1, 7, 2, 7, 2).float().mean((2, 4))
        assert ((cells == 0) | (cells == 1)).all()


def test_dmjd_counts() -> None:
    """L = 196: 49 visible at .75; on cells at .6 19.6 of 49 cells, 20 where the paper's code cuts to 19."""
    assert Disjoint(masking=Random(ratio=0.75))(ask()).visible == 49
    assert Disjoint(masking=Random(ratio=0.6, cell=2))(ask()).visible == 20 * 4


def test_every_view_over_random_is_uniformly_random_alone() -> None:
    """Pairs of sites are hidden together as often as in core/random."""
    n, sites = 16384, 10
    for mask in views(Disjoint(masking=Random(ratio=0.6), prediction=0.9), ask(sites, None, n)):
        hidden = mask.hidden.double()
        pairs = (hidden.T @ hidden) / n
        pairs = pairs[~torch.eye(sites, dtype=torch.bool)]
        p = 6 * 5 / (10 * 9)
        assert ((pairs - p).abs() < 5 * (p * (1 - p) / n) ** 0.5).all()


def test_views_of_block_lie_together() -> None:
    for mask in views(Disjoint(masking=Block(ratio=0.6)), ask(n=256)):
        hidden = mask.hidden.view(-1, 14, 14)
        agree = [float((hidden == hidden.roll(1, axis)).float().mean()) for axis in (1, 2)]
        assert min(agree) > 0.75  # by chance 0.52


def test_streams_beyond_the_views_are_further_draws() -> None:
    masking, request = Disjoint(masking=Random(ratio=0.6)), ask()
    masks = [masking(dataclasses.replace(request, stream=stream)).hidden for stream in range(4)]
    assert (masks[0] | masks[1]).all() and (masks[2] | masks[3]).all()
    assert not torch.equal(masks[0], masks[2]) and not (masks[0] | masks[3]).all()


def test_padded_rows_are_covered_each_in_its_own_measure() -> None:
    lengths = torch.arange(64) % 33 + 1
    valid = torch.arange(40) < lengths[:, None]
    first, second = views(Disjoint(masking=Random(ratio=0.5)), ask(40, None, valid=valid))
    full = lengths > 1
    assert torch.equal((first.hidden | second.hidden)[full], valid[full])
    assert torch.equal(first.hidden.sum(1), second.hidden.sum(1))
    assert torch.equal(first.hidden.sum(1)[full], (lengths[full] + 1) // 2)
    assert not first.hidden[~full].any()


def test_hardest_sites_come_in_the_first_view() -> None:
    score = torch.randn(64, 40, generator=torch.Generator().manual_seed(0))
    first, second = views(Disjoint(masking=TopScore(ratio=0.5)), ask(40, None, score=score))
    assert (score[first.hidden].view(64, 20).amin(1) > score[second.hidden].view(64, 20).amax(1)).all()


def test_a_schedule_goes_inside() -> None:
    masking = Disjoint(masking=Scheduled(masking=Random(), start=0.5, end=0.9))
    for index, count in ((0, 98), (5, 137), (10, 176)):
        request = dataclasses.replace(ask(), step=Step(index, 10))
        masks = views(masking, request)
        assert [mask.count for mask in masks] == [count, count] and together(masks).all()


MISTAKES: list[tuple[dict[str, Any], str]] = [
    (
        {"masking": Random(ratio=0.4)},
        r"2 views that hide 0.4 each hide 0.8 of the sites together, not 1: use a ratio of 0.5 or more, "
        "3 views, or a prediction of 0.8 or less",
    ),
    ({"masking": Random(ratio=0.25), "views": 3}, "4 views"),
    ({"masking": Random(ratio=0.75), "prediction": 0.7}, "one view alone hides 0.75 of the sites, more than"),
    ({"masking": Random(), "views": 1}, "views must be 2 or more"),
    ({"masking": Random(), "prediction": 1.5}, r"prediction must lie in \(0, 1\]"),
    ({"masking": Random(), "prediction": 0}, r"prediction must lie in \(0, 1\]"),
    (
        {"masking": lambda request: Mask(request.score)},
        "cuts its views from a ranking of sites, and function",
    ),
    ({"masking": Disjoint(masking=Random())}, "and Disjoint gives none"),
    ({"masking": Scheduled(masking=Random(), start=0.3)}, "2 views that hide 0.3 each"),
    (
        {"masking": Scheduled(masking=Disjoint(masking=Random()), option="prediction")},
        "and Disjoint gives none",
    ),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES)
def test_what_cannot_be_done_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Disjoint(**options)
