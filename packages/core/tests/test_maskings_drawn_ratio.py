"""A ratio drawn for each sample (MaskGIT)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from polymask import Request, Step, UserError
from polymask.maskings import Block, DrawnRatio, Random, Scheduled
from polymask.maskings.drawn_ratio import hidden_share

STEP = Step(index=3, total=10, seed=1)


def ask(sites: int, n: int = 20_000, **options: Any) -> Request:
    return Request(torch.arange(n), sites, STEP, **options)


@pytest.mark.parametrize(
    ("curve", "law"),
    [
        ("cosine", lambda r: 2 / math.pi * math.asin(r)),
        (1.0, lambda r: r),
        (2.5, lambda r: 1 - (1 - r) ** 0.4),
    ],
)
def test_the_share_follows_the_law_of_its_curve(curve: Any, law: Any) -> None:
    """Rounded up, k sites or fewer are hidden exactly where the share is at most k / N."""
    counts = DrawnRatio(masking=Random(), curve=curve, visible=0)(ask(9)).hidden.sum(1)
    for k in range(10):
        chance = law(k / 9)
        bound = 5 * math.sqrt(max(chance * (1 - chance), 1e-9) / len(counts))
        assert abs((counts <= k).double().mean() - chance) <= bound, k
    assert counts.min() >= 1


def test_a_curve_runs_from_everything_to_nothing() -> None:
    for curve in ("cosine", 1.0, 2.5):
        share = hidden_share(torch.tensor([0.0, 0.5, 1.0]), curve)  # type: ignore[arg-type]
        expected = [1.0, math.cos(math.pi / 4) if curve == "cosine" else 1 - 0.5**curve, 0.0]  # type: ignore[operator]
        torch.testing.assert_close(share, torch.tensor(expected, dtype=torch.float64))


def test_the_hidden_sites_are_the_first_of_the_ranking_inside() -> None:
    """Drawn counts change how far down the ranking is hidden, and nothing else; cells stay whole."""
    request = ask(36, n=300, grid=(6, 6))
    for masking in (Random(), Random(cell=2), Block(ratio=0.5)):
        hidden, keys = DrawnRatio(masking=masking)(request).hidden, masking.rank(request)
        in_order = hidden.gather(1, keys.argsort(1))
        assert (in_order.long().diff(dim=1) >= 0).all()
        assert (hidden.sum(1) % masking.unit(request) == 0).all()
        assert hidden.sum(1).unique().numel() > 5


def test_ratio_and_sites_are_drawn_independently() -> None:
    """The site of the first key is hidden as often as any other, whatever the ratio."""
    hidden = DrawnRatio(masking=Random())(ask(8)).hidden
    for count in range(1, 8):
        rows = hidden[hidden.sum(1) == count].double()
        bound = 5 * math.sqrt(count / 8 * (1 - count / 8) / len(rows))
        assert (rows.mean(0) - count / 8).abs().max() <= bound


@pytest.mark.parametrize("visible", [0, 1, 3])
def test_so_many_sites_stay_visible(visible: int) -> None:
    masking = DrawnRatio(masking=Random(), visible=visible)
    assert (~masking(ask(5)).hidden).sum(1).min() == visible
    lengths = torch.arange(20_000) % 5 + 1
    valid = torch.arange(5) < lengths[:, None]
    mask = masking(ask(5, valid=valid))
    assert not (mask.hidden & ~valid).any() and mask.valid is valid
    assert (mask.invert().hidden.sum(1) >= lengths.clamp(max=visible)).all()
    assert (mask.hidden.sum(1) >= (lengths - visible).clamp(0, 1)).all()


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(UserError, match="Scheduled gives none"):
        DrawnRatio(masking=Scheduled(masking=Random()))
    with pytest.raises(UserError, match="3 of 3 sites stay visible"):
        DrawnRatio(masking=Random(), visible=3)(ask(3))
