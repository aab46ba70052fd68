"""Each check of maskings catches a masking that lacks the property."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from torch import Tensor

from polymask import Mask, Request, UserError
from polymask.testing import CHECKS, check_part


def ranks(request: Request, ids: Tensor | None = None) -> Tensor:
    """``[B, sites]`` a random order of the sites of each sample, padding last."""
    ids = request.ids if ids is None else ids
    keys = request.step.bits(ids, request.sites, request.stream) >> 20
    if request.valid is not None:
        keys = keys.masked_fill(~request.valid, 1 << 60)
    return keys.argsort(1).argsort(1)


def draw(request: Request, ratio: float = 0.5, ids: Tensor | None = None) -> Mask:
    """A right mask, to be spoilt."""
    order = ranks(request, ids)
    if request.valid is None:
        count = round(ratio * request.sites)
        if not 0 < count < request.sites:
            raise UserError("too few sites")
        return Mask(order < count, request.sites - count)
    return Mask(order < (ratio * request.valid.sum(1)).long()[:, None], None, request.valid)


class Good:
    """Hides sites at random.

    Args:
        ratio: share of sites to hide.
    """

    def __init__(self, *, ratio: float = 0.5) -> None:
        self.ratio = ratio

    def __call__(self, request: Request) -> Mask:
        return draw(request, self.ratio)


class GoodByScore:
    """Hides the sites of highest score."""

    def __call__(self, request: Request) -> Mask:
        if request.score is None:
            raise UserError("needs a score")
        score = request.score.detach()
        if request.valid is not None:
            score = score.masked_fill(~request.valid, -1.0)
        n = torch.full((len(score),), request.sites) if request.valid is None else request.valid.sum(1)
        hidden = score.argsort(1, descending=True).argsort(1) < (n // 2)[:, None]
        if not hidden.any(1).all():
            raise UserError("too few sites")
        return Mask(
            hidden, None if request.valid is not None else request.sites - request.sites // 2, request.valid
        )


class ReturnsATensor:
    def __call__(self, request: Request) -> Tensor:
        return draw(request).hidden


class Transposed:
    def __call__(self, request: Request) -> Mask:
        return Mask(draw(request).hidden.T)


class Counted:
    def __call__(self, request: Request) -> Mask:
        return Mask(draw(request).hidden.long())


class BeyondOne:
    def __call__(self, request: Request) -> Mask:
        return Mask(draw(request).hidden * 1.5)


class Miscounted:
    def __call__(self, request: Request) -> Mask:
        mask = draw(request)
        return Mask(mask.hidden, mask.count if mask.count != mask.visible else 1, mask.valid)


class GlobalChance:
    def __call__(self, request: Request) -> Mask:
        return Mask(torch.rand(len(request.ids), request.sites) < 0.5)


class Remembers:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, request: Request) -> Mask:
        self.calls += 1
        return draw(request, ids=request.ids + self.calls)


class KnowsItsBirth:
    """Every instance draws in its own way."""

    born = itertools.count()

    def __init__(self) -> None:
        self.number = next(self.born)

    def __call__(self, request: Request) -> Mask:
        return draw(request, ids=request.ids + self.number)


class ForgetsInTransit(Good):
    def __reduce__(self) -> tuple[type, tuple[()]]:
        self.ratio = 0.25
        return type(self), ()


class SeedsTorch:
    def __call__(self, request: Request) -> Mask:
        torch.manual_seed(request.step.index)
        return Mask(torch.rand(len(request.ids), request.sites) < 0.5)


class SeedsNumpy:
    def __call__(self, request: Request) -> Mask:
        np.random.seed(3)
        return draw(request)


class DrawsFromPython:
    def __call__(self, request: Request) -> Mask:
        random.random()
        return draw(request)


class Overwrites:
    def __call__(self, request: Request) -> Mask:
        mask = draw(request)
        request.ids.add_(1)
        return mask


class OneForAll:
    def __call__(self, request: Request) -> Mask:
        return draw(request, ids=torch.zeros_like(request.ids))


class Frozen:
    def __call__(self, request: Request) -> Mask:
        return draw(Request(request.ids, request.sites, type(request.step)(), valid=request.valid))


class NoStream:
    def __call__(self, request: Request) -> Mask:
        return draw(Request(request.ids, request.sites, request.step, valid=request.valid))


class Bernoulli:
    def __call__(self, request: Request) -> Mask:
        return Mask(request.step.noise(request.ids, request.sites) < 0.5, None, request.valid)


class Silent:
    def __call__(self, request: Request) -> Mask:
        return Mask(draw(request).hidden)


class HidesAll:
    def __call__(self, request: Request) -> Mask:
        mask = draw(request)
        mask.hidden[3] = True
        return mask


class HidesNothing:
    def __call__(self, request: Request) -> Mask:
        mask = draw(request)
        mask.hidden[3] = False
        return mask


class HidesPadding:
    def __call__(self, request: Request) -> Mask:
        return Mask(draw(Request(request.ids, request.sites, request.step)).hidden, None, request.valid)


class ForgetsPadding:
    def __call__(self, request: Request) -> Mask:
        return Mask(draw(request).hidden)


class ByRow:
    def __call__(self, request: Request) -> Mask:
        return draw(request, ids=torch.arange(len(request.ids)))


class ByWidth:
    def __call__(self, request: Request) -> Mask:
        return draw(request, ids=request.ids + request.sites)


class InTheMiddle:
    """Segments that never leave the row of sites: its ends are hidden too seldom."""

    def __call__(self, request: Request) -> Mask:
        n, length = request.sites, max(request.sites // 3, 1)
        start = (request.step.noise(request.ids, 1, request.stream) * (n - length + 1)).long()
        site = torch.arange(n)
        return Mask((site >= start) & (site < start + length), n - length)


class RatioOfVisible(Good):
    def __call__(self, request: Request) -> Mask:
        return draw(request, 1 - self.ratio)


class LowestScore(GoodByScore):
    def __call__(self, request: Request) -> Mask:
        score = None if request.score is None else -request.score
        return super().__call__(Request(request.ids, request.sites, request.step, score=score))


class SavesTheHighest(GoodByScore):
    """Goes by score, but never hides what scores above 2."""

    def __call__(self, request: Request) -> Mask:
        mask = super().__call__(request)
        assert request.score is not None
        return Mask(mask.hidden & (request.score < 2), None, request.valid)


class ScoreOrNot:
    def __call__(self, request: Request) -> Mask:
        return draw(request) if request.score is None else GoodByScore()(request)


class SoftScore:
    def __call__(self, request: Request) -> Mask:
        if request.score is None:
            raise UserError("needs a score")
        return Mask(request.score, None, request.valid)


class Careless:
    """Rounds down without a look at what is left to hide."""

    def __call__(self, request: Request) -> Mask:
        return Mask(ranks(request) < request.sites // 2)


class CrashesOnLines:
    def __call__(self, request: Request) -> Mask:
        if request.grid is not None and 1 in request.grid:
            raise RuntimeError("Expected size > 1")
        return draw(request)


class Closure:
    def __init__(self) -> None:
        self.draw = lambda request: draw(request)

    def __call__(self, request: Request) -> Mask:
        return self.draw(request)


class Refuses:
    def __call__(self, request: Request) -> Mask:
        raise UserError("not today")


BAD = [
    ("check_masking_shape", ReturnsATensor, "", "returned Tensor, not a polymask.Mask"),
    ("check_masking_shape", Transposed, "", "grid (8, 8): hidden has shape [64, 16], not (16, 64)"),
    ("check_masking_shape", Counted, "", "got torch.int64"),
    ("check_masking_shape", BeyondOne, "", "leaves [0, 1]"),
    ("check_masking_shape", Miscounted, "", "visible=1, but rows have [32]"),
    ("check_masking_shape", Refuses, "", "refuses everything it was asked: grid (8, 8): not today"),
    ("check_masking_is_a_function_of_the_request", GlobalChance, "", "a second draw differs"),
    ("check_masking_is_a_function_of_the_request", Remembers, "", "a second draw differs"),
    ("check_masking_is_a_function_of_the_request", KnowsItsBirth, "", "another instance draws another mask"),
    ("check_masking_leaves_global_generators", GlobalChance, "", "generator of torch"),
    ("check_masking_leaves_global_generators", SeedsTorch, "", "generator of torch"),
    ("check_masking_leaves_global_generators", SeedsNumpy, "", "generator of numpy"),
    ("check_masking_leaves_global_generators", DrawsFromPython, "", "generator of Python"),
    ("check_masking_leaves_the_request", Overwrites, "", "overwrites request.ids"),
    ("check_masking_varies", Frozen, "", "another seed draws the same masks"),
    ("check_masking_varies", NoStream, "", "another stream draws the same masks"),
    ("check_masking_differs_between_samples", OneForAll, "", "all 16 samples got the same mask"),
    ("check_masking_hides_as_much_in_every_sample", Bernoulli, "", "sites"),
    ("check_masking_hides_as_much_in_every_sample", Silent, "", "rows are alike but Mask.visible is None"),
    ("check_masking_hides_some_and_not_all", HidesAll, "", "hides everything in some sample"),
    ("check_masking_hides_some_and_not_all", HidesNothing, "", "hides nothing in some sample"),
    ("check_masking_keeps_padding_out", HidesPadding, "", "sites of padding"),
    ("check_masking_keeps_padding_out", ForgetsPadding, "", "does not carry request.valid"),
    ("check_masking_ignores_companions", ByRow, "", "depends on the samples beside it"),
    ("check_masking_ignores_companions", ByWidth, "", "depends on how much padding follows"),
    ("check_masking_covers_every_site_alike", InTheMiddle, "", "tag it 'uneven'"),
    ("check_masking_ratio_is_the_hidden_share", RatioOfVisible, "", "ratio 0.25 hides 75% of the sites"),
    ("check_masking_follows_the_score", LowestScore, "score", "of sites of high score"),
    (
        "check_masking_follows_the_score",
        SavesTheHighest,
        "score",
        "raising the score of site 0 made it visible",
    ),
    ("check_masking_asks_for_its_score", ScoreOrNot, "score", "without the score it is tagged to go by"),
    ("check_masking_stops_gradient", SoftScore, "score", "gradient flows through the mask"),
    ("check_masking_meets_odd_grids", Careless, "", "grid (1,): hides [0, 0"),
    ("check_masking_meets_odd_grids", CrashesOnLines, "", "RuntimeError: Expected size > 1"),
    ("check_masking_is_picklable", Closure, "", "pickle"),
    ("check_masking_is_picklable", ForgetsInTransit, "", "the copy draws otherwise"),
]
DEVICES = "check_masking_draws_alike_on_every_device"


@pytest.mark.parametrize(("check", "bad", "tag", "message"), BAD, ids=lambda x: getattr(x, "__name__", None))
def test_a_check_catches(check: str, bad: type, tag: str, message: str) -> None:
    (result,) = check_part(bad, kind="maskings", tags=filter(None, [tag]), only=[check])
    assert result.outcome == "failed"
    assert message in result.message


def test_every_check_is_tried() -> None:
    names = {check.name for check in CHECKS if check.kinds == ("maskings",)}
    assert names == {check for check, *_ in BAD} | {DEVICES}


@pytest.mark.parametrize(
    ("device", "cls", "ended", "message"),
    [
        ("cpu", Good, "passed", ""),
        ("cpu", Remembers, "failed", "grid (8, 8): on cpu it draws another mask"),
        ("meta", GlobalChance, "failed", "grid (8, 8): the mask is on cpu, the ids on meta"),
        (None, Good, "skipped", "no accelerator here"),
    ],
)
def test_devices_are_compared(
    device: str | None, cls: type, ended: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another device in the part of the accelerator, since there may be none."""
    found = None if device is None else torch.device(device)
    monkeypatch.setattr("polymask.testing.maskings.accelerator", lambda: found)
    (result,) = check_part(cls, kind="maskings", only=[DEVICES])
    assert (result.outcome, result.message) == (ended, message)


@pytest.mark.parametrize(("good", "tags"), [(Good, []), (GoodByScore, ["score"])])
def test_a_good_masking_passes(good: type, tags: list[str]) -> None:
    results = check_part(good, kind="maskings", tags=tags)
    assert not [result for result in results if not result.ok]


@pytest.mark.parametrize(
    ("check", "cls", "tag"),
    [
        ("check_masking_differs_between_samples", OneForAll, "shared"),
        ("check_masking_varies", Frozen, "fixed"),
        ("check_masking_hides_as_much_in_every_sample", Bernoulli, "variable-count"),
        ("check_masking_covers_every_site_alike", InTheMiddle, "uneven"),
    ],
)
def test_a_tag_excuses(check: str, cls: type, tag: str) -> None:
    (result,) = check_part(cls, kind="maskings", tags=[tag], only=[check])
    assert (result.outcome, result.message) == ("skipped", f"tagged {tag!r}")


def test_gradient_through_a_learned_masking_is_allowed() -> None:
    only = ["check_masking_stops_gradient"]
    assert (
        check_part(SoftScore, kind="maskings", tags=["score", "learned"], only=only)[0].outcome == "skipped"
    )
