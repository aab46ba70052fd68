"""Maskings that go by evidence, and by time."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import Mask, Request, Step, UserError
from polymask.maskings import Block, Random, Scheduled, Span, TopScore
from polymask.schedules import CURVES

INF, NAN = float("inf"), float("nan")


def ask(score: Tensor | None, n: int = 0, progress: float = 0.5, **options: Any) -> Request:
    rows, sites = (n, 12) if score is None else score.shape
    step = Step(index=round(progress * 1000), total=1000, seed=3)
    return Request(torch.arange(rows), sites, step, score=score, **options)


def noise(rows: int, sites: int) -> Tensor:
    return torch.randn(rows, sites, generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------- top score


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_highest_scores_are_hidden(dtype: torch.dtype) -> None:
    score = (torch.arange(12.0) - 6).to(dtype).expand(5, 12)[:, torch.randperm(12)]
    assert torch.equal(TopScore(ratio=0.25)(ask(score)).hidden, score >= 3)
    assert torch.equal(TopScore(ratio=0.25, largest=False)(ask(score)).hidden, score <= -4)


def test_part_of_the_hidden_are_hardest_and_the_rest_uniform() -> None:
    """HPM: the h hardest of M hidden for sure, any other site with probability (M - h) / (L - h)."""
    rows, sites, hidden, hard = 4096, 49, 37, 18
    score = noise(rows, sites)
    mask = TopScore(ratio=0.75, hard=0.5)(ask(score))
    assert mask.count == hidden
    order = score.argsort(dim=1, descending=True)
    ranked = mask.hidden.gather(1, order)
    assert ranked[:, : hard + 1].all()  # half of 37 is 19
    p = (hidden - hard - 1) / (sites - hard - 1)
    rate = ranked[:, hard + 1 :].double().mean(0)
    assert ((rate - p).abs() < 5 * math.sqrt(p * (1 - p) / rows)).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_slice_along_an_axis_hides_its_own_highest(axis: int) -> None:
    grid, score = (3, 4, 5), noise(7, 60)
    score = (score.view(7, *grid) + 9 * torch.arange(3.0)[:, None, None]).flatten(1)  # one slice is above all
    mask = TopScore(ratio=0.6, per_axis=axis)(ask(score, grid=grid))
    hidden, scores = (x.view(7, *grid).movedim(axis + 1, 1).flatten(2) for x in (mask.hidden, score))
    count = round(0.6 * 60 / grid[axis])
    order = scores.argsort(dim=2, descending=True)
    expected = torch.zeros_like(hidden).scatter(2, order[..., :count], True)
    assert torch.equal(hidden, expected) and mask.count == count * grid[axis]
    lowest = TopScore(ratio=0.6, per_axis=axis, largest=False)(ask(score, grid=grid)).hidden
    assert torch.equal(lowest, TopScore(ratio=0.6, per_axis=axis)(ask(-score, grid=grid)).hidden)


def test_equal_scores_of_a_slice_are_chosen_among_at_random_by_sample() -> None:
    flat = torch.zeros(2000, 4 * 9)
    hidden = TopScore(ratio=4 / 9, per_axis=0)(ask(flat, grid=(4, 9))).hidden.view(-1, 4, 9)
    assert (hidden.sum(2) == 4).all()
    assert ((hidden.double().mean(0) - 4 / 9).abs() < 5 * math.sqrt(20 / 81 / 2000)).all()
    assert (hidden[:, 0] != hidden[:, 1]).any(1).double().mean() > 0.95  # not the same in all slices


def test_part_of_each_slice_is_hard_and_the_rest_random() -> None:
    score = torch.arange(10.0).repeat(2000, 3)
    hidden = TopScore(ratio=0.5, hard=0.6, per_axis=0)(ask(score, grid=(3, 10))).hidden.view(-1, 3, 10)
    assert (hidden.sum(2) == 5).all() and hidden[..., 7:].all()
    assert ((hidden[..., :7].double().mean((0, 1)) - 2 / 7).abs() < 0.03).all()


def test_slices_need_a_whole_grid_that_has_them() -> None:
    for given in ({}, {"grid": (12,)}, {"grid": (3, 4), "valid": torch.ones(2, 12, dtype=torch.bool)}):
        with pytest.raises(UserError, match="per_axis 1 needs tokens on a grid"):
            TopScore(per_axis=1)(ask(noise(2, 12), **given))
    with pytest.raises(UserError, match="from 0"):
        TopScore(per_axis=-1)


def test_without_hard_sites_it_is_random_to_the_bit() -> None:
    request = ask(noise(64, 50))
    for ratio in (0.3, 0.75):
        assert torch.equal(TopScore(ratio=ratio, hard=0)(request).hidden, Random(ratio=ratio)(request).hidden)
    valid = torch.arange(50) < torch.arange(64)[:, None]
    padded = ask(noise(64, 50), valid=valid)
    assert torch.equal(TopScore(hard=0)(padded).hidden, Random()(padded).hidden)


def test_hardness_grows_over_the_run() -> None:
    score = noise(512, 40)
    hardest = score >= score.topk(10, dim=1).values[:, -1:]
    masking = TopScore(ratio=0.5, hard=(0.0, 0.5))
    rates = [float(masking(ask(score, progress=p)).hidden[hardest].float().mean()) for p in (0, 0.4, 0.8, 1)]
    # h of the 10 hardest for sure, the others at (20 - h) / (40 - h)
    want = [(h + (10 - h) * (20 - h) / (40 - h)) / 10 for h in (0, 4, 8, 10)]
    assert rates == pytest.approx(want, abs=0.03)
    assert torch.equal(
        masking(ask(score, progress=0)).hidden, Random(ratio=0.5)(ask(score, progress=0)).hidden
    )
    assert masking(ask(score, progress=1)).hidden[hardest].all()


def test_padded_rows_have_hard_sites_of_their_own() -> None:
    lengths = torch.arange(64) % 30 + 11
    valid = torch.arange(40) < lengths[:, None]
    score = noise(64, 40).masked_fill(~valid, INF)
    mask = TopScore(ratio=0.5, hard=0.5)(ask(score, valid=valid))
    for row, hidden, n in zip(score, mask.hidden, lengths.tolist(), strict=True):
        count = math.floor(n / 2 + 0.5)
        assert hidden.sum() == count and not hidden[n:].any()
        assert hidden[row[:n].argsort(descending=True)[: math.floor(count / 2 + 0.5)]].all()


def test_equal_scores_are_chosen_among_at_random() -> None:
    score = torch.zeros(8192, 16)
    score[:, 1::2] = -0.0
    rate = TopScore(ratio=0.25)(ask(score)).hidden.double().mean(0)
    assert ((rate - 0.25).abs() < 5 * math.sqrt(0.25 * 0.75 / 8192)).all()


def test_no_evidence_is_taken_last() -> None:
    score = torch.tensor([[NAN, -INF, 0.0, INF, -NAN, 1.0, -1.0, NAN]])
    for largest, hidden in ((True, {3, 5, 2, 6}), (False, {1, 6, 2, 5})):
        mask = TopScore(ratio=0.5, largest=largest)(ask(score))
        assert set(mask.hidden[0].nonzero().flatten().tolist()) == hidden


def test_a_score_is_asked_for() -> None:
    with pytest.raises(UserError, match=r"core/top-score hides by score, and this system computes none"):
        TopScore()(ask(None, n=3))
    with pytest.raises(ValueError, match=r"score is \[3, 12, 1\], expected \[3, 12\]"):
        TopScore()(Request(torch.arange(3), 12, Step(), score=torch.zeros(3, 12, 1)))


# ------------------------------------------------------------- top score, drawn at a temperature


def test_one_visible_site_is_drawn_in_proportion_to_its_weight() -> None:
    rows, weights = 20_000, torch.tensor([0.4, 0.3, 0.2, 0.08, 0.02, 0.0])
    request = ask(weights.log().expand(rows, -1))
    mask = TopScore(ratio=5 / 6, largest=False, temperature=1.0)(request)
    assert mask.visible == 1
    rate = (~mask.hidden).double().mean(0)
    assert ((rate - weights).abs() <= 5 * (weights * (1 - weights) / rows).sqrt()).all()


def test_several_are_drawn_without_replacement_as_torch_draws_them() -> None:
    rows, weights = 20_000, torch.distributions.Dirichlet(torch.full((10,), 0.5)).sample() + 1e-3
    mask = TopScore(ratio=0.6, largest=False, temperature=1.0)(ask(weights.log().expand(rows, -1)))
    drawn = torch.multinomial(weights.expand(rows, -1), 4)
    expected = torch.zeros(rows, 10).scatter(1, drawn, 1.0).double().mean(0)
    rate = (~mask.hidden).double().mean(0)
    spread = (expected * (1 - expected) * 2 / rows).sqrt().clamp(min=1e-3)
    assert ((rate - expected).abs() < 5 * spread).all()


def test_noise_stays_out_of_what_is_random_anyway_and_vanishes_with_the_temperature() -> None:
    """With sites chosen by noise alone, all others are still hidden alike."""
    rows, sites = 20_000, 8
    score = torch.tensor([3.0] * 4 + [0.0] * 4).expand(rows, -1)
    mask = TopScore(ratio=0.5, hard=0.5, temperature=1.0)(ask(score))
    plain = ask(noise(64, 40))
    cold = TopScore(ratio=0.5, temperature=1e-6)(plain)
    assert torch.equal(cold.hidden, TopScore(ratio=0.5)(plain).hidden)
    # drawn by noise alone, a mask has no more in common with a random one of the same step than by chance
    even = ask(torch.zeros(rows, sites))
    same = TopScore(ratio=0.5, temperature=1.0)(even).hidden == Random(ratio=0.5)(even).hidden
    assert abs(same.double().mean() - 0.5) < 5 * (0.25 / same.numel()) ** 0.5
    # a low site is among the 2 hard ones with p, else it is one of the 2 taken at random of the 6 left
    gumbel = -(-torch.rand(200_000, sites).log()).log() + score[0]
    hard = gumbel.topk(2).indices.flatten().bincount(minlength=sites) / 200_000
    expected = (hard + (1 - hard) / 3).double()
    rate = mask.hidden.double().mean(0)
    assert ((rate - expected).abs() < 5 * (0.25 * 2 / rows) ** 0.5).all()


def test_a_temperature_is_a_number_from_0_on() -> None:
    for temperature in (-1.0, INF, NAN):
        with pytest.raises(UserError, match="temperature must be 0 or more"):
            TopScore(temperature=temperature)


@pytest.mark.parametrize("hard", [1.5, -0.1, (0.0, 2.0), (0.1, 0.2, 0.3), []])
def test_impossible_hardness_is_refused(hard: Any) -> None:
    with pytest.raises(UserError, match=r"hard must be a share in \[0, 1\], or two of them"):
        TopScore(hard=hard)


# ---------------------------------------------------------------- schedules


def counts(masking: Scheduled, *progress: float, sites: int = 100) -> list[int | None]:
    request = [Request(torch.arange(2), sites, Step(round(p * 1000), 1000), grid=(sites,)) for p in progress]
    return [masking(one).count for one in request]


def test_the_ratio_goes_from_start_to_end() -> None:
    masking = Scheduled(masking=Random(), start=0.3, end=0.7)
    assert counts(masking, 0, 0.25, 0.5, 1) == [30, 40, 50, 70]
    falling = Scheduled(masking=Random(), start=0.7, end=0.3)
    assert counts(falling, 0, 0.25, 0.5, 1) == [70, 60, 50, 30]


def test_curves() -> None:
    at = {name: [curve(p) for p in (0.0, 0.25, 0.5, 1.0)] for name, curve in CURVES.items()}
    half = math.sqrt(0.5)
    assert at["linear"] == [0, 0.25, 0.5, 1]
    assert at["cosine"] == pytest.approx([0, (1 - half) / 2, 0.5, 1])
    assert at["square"] == [0, 0.0625, 0.25, 1]
    assert at["root"] == pytest.approx([0, 0.5, half, 1])
    assert at["step"] == [0, 0, 0, 1]
    assert at["exp"] == pytest.approx(
        [0, math.expm1(2.5) / math.expm1(10), math.expm1(5) / math.expm1(10), 1]
    )
    # CLIMB: 0.586, 0.793 and 0.938 of a way from 0.1 to 1 after 1, 10 and 50 % of the time
    assert [0.1 + 0.9 * CURVES["log"](p) for p in (0, 0.01, 0.1, 0.5, 1)] == pytest.approx(
        [0.1, 0.586, 0.793, 0.938, 1], abs=1e-3
    )


def test_every_curve_rises_and_stays_between() -> None:
    for curve in CURVES.values():
        values = [curve(i / 100) for i in range(101)]
        assert values == sorted(values) and 0 <= values[0] < 1e-9 and values[-1] == pytest.approx(1)
        assert max(values) <= 1


def test_nothing_changes_outside_the_window() -> None:
    masking = Scheduled(masking=Random(), start=0.2, end=0.6, window=(0.25, 0.75))
    assert counts(masking, 0, 0.25, 0.5, 0.75, 1) == [20, 20, 40, 60, 60]


def test_the_inner_masking_is_otherwise_the_same_and_stays_as_it_was() -> None:
    inner = Block(ratio=0.5, side=2)
    request = Request(torch.arange(8), 64, Step(500, 1000), grid=(8, 8))
    masking = Scheduled(masking=inner, start=0.2, end=0.6)
    assert torch.equal(masking(request).hidden, Block(ratio=0.4, side=2)(request).hidden)
    assert inner.ratio == 0.5


def test_whole_numbers_stay_whole() -> None:
    masking = Scheduled(masking=Span(ratio=0.5, length=10), option="length", start=2, end=7)
    request = Request(torch.arange(8), 64, Step(500, 1000))
    assert torch.equal(masking(request).hidden, Span(ratio=0.5, length=4)(request).hidden)
    hard = Scheduled(masking=TopScore(hard=1), option="hard", start=0, end=1)
    score = noise(8, 64)
    request = Request(torch.arange(8), 64, Step(500, 1000), score=score)
    assert torch.equal(hard(request).hidden, TopScore(hard=0.5)(request).hidden)


def test_an_impossible_end_is_found_out_at_the_start() -> None:
    with pytest.raises(UserError, match=r"ratio 0.999 of 100 sites hides everything"):
        counts(Scheduled(masking=Random(), start=0.5, end=0.999), 0)
    growing = Scheduled(masking=Block(side=2), option="side", start=2, end=9)
    with pytest.raises(UserError, match="blocks of 9 sites do not fit into a grid of 8"):
        growing(Request(torch.arange(2), 8, Step(0, 10), grid=(8,)))


def test_any_masking_with_a_number_can_be_scheduled() -> None:
    class Every:
        def __init__(self, nth: int) -> None:
            self.nth = nth

        def __call__(self, request: Request) -> Mask:
            hidden = torch.arange(request.sites) % self.nth == 0
            return Mask(hidden.expand(len(request.ids), -1))

    masking = Scheduled(masking=Every(2), option="nth", start=2, end=6)
    request = Request(torch.arange(2), 12, Step(5, 10))
    assert masking(request).hidden[0].nonzero().flatten().tolist() == [0, 4, 8]


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"option": "rato"}, "Random has no numeric option 'rato' to schedule; it has ratio, cell"),
    ({"option": "rounding"}, "no numeric option 'rounding'"),
    ({"curve": "wild"}, "curve='wild': choose one of linear, cosine"),
    ({"window": (0.5, 0.5)}, "window must be two shares"),
    ({"window": (-0.5, 0.5)}, "window must be two shares"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES)
def test_impossible_schedules_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Scheduled(masking=Random(), **options)
