"""What every masking of the core promises."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import polymask
from polymask import Mask, Request, Step, UserError
from polymask.maskings import Block, Color, Disjoint, Random, Ranking, Scheduled, Span, TopScore
from polymask.protocols import Masking

STEP = Step(index=30, total=100, seed=7)
GRID = (6, 8)

MASKINGS: dict[str, Masking] = {
    "random": Random(),
    "random up": Random(ratio=0.41, rounding="up"),
    "random cells": Random(ratio=0.6, cell=2),
    "block": Block(),
    "block inverse": Block(ratio=0.8, side=3, inverse=True),
    "block tall": Block(ratio=0.5, scale=(0.1, 0.2), aspect=(2.0, 5.0)),
    "color": Color(),
    "color red": Color(ratio=0.6, color="red", sigma=1.5),
    "color changing": Color(ratio=0.3, color="blue", then=[(0.2, "purple"), (0.9, "white")]),
    "span": Span(length=5),
    "span of one": Span(ratio=0.15, length=1),
    "top-score": TopScore(hard=0.5),
    "top-score growing": TopScore(hard=(0.0, 0.5), largest=False),
    "scheduled": Scheduled(masking=Random()),
    "scheduled block": Scheduled(masking=Block(), start=0.2, end=0.6, curve="root"),
    "disjoint": Disjoint(masking=Random()),
    "disjoint cells": Disjoint(masking=Random(ratio=0.6, cell=2)),
    "disjoint block": Disjoint(masking=Block(ratio=0.6), views=3, prediction=0.9),
    "disjoint color": Disjoint(masking=Color()),
    "disjoint scheduled": Disjoint(masking=Scheduled(masking=Span())),
}
NO_PADDING = {"random cells", "disjoint cells"}
"""They refuse batches with padding."""

each = pytest.mark.parametrize("name", MASKINGS)
each_padded = pytest.mark.parametrize("name", [name for name in MASKINGS if name not in NO_PADDING])


def ask(n: int = 16, lengths: Tensor | None = None, **options: Any) -> Request:
    """A request over a 6 x 8 grid with a score that rises along it, noise on top."""
    ids = options.pop("ids", torch.arange(n) * 31 + 5)
    generator = torch.Generator().manual_seed(1)
    score = torch.arange(48.0) + 10 * torch.randn(len(ids), 48, generator=generator)
    valid = None if lengths is None else torch.arange(48) < lengths[:, None]
    return Request(ids, 48, STEP, **{"grid": GRID, "score": score, "valid": valid, **options})


LENGTHS = torch.tensor([48, 47, 40, 33, 24, 20, 11, 10, 5, 4, 3, 2, 1, 0, 31, 48])


@each
def test_every_row_hides_the_same_number_and_says_so(name: str) -> None:
    mask = MASKINGS[name](ask())
    assert mask.hidden.shape == (16, 48) and mask.hidden.dtype == torch.bool
    assert mask.hidden.sum(1).tolist() == [mask.count] * 16


@each
def test_rows_differ(name: str) -> None:
    # two of few long spans may fall on the same places
    assert len(MASKINGS[name](ask()).hidden.unique(dim=0)) >= 14


@each
def test_a_sample_draws_the_same_mask_in_any_batch(name: str) -> None:
    request = ask()
    whole = MASKINGS[name](request).hidden
    few = [9, 2, 3]
    assert request.score is not None
    part = dataclasses.replace(request, ids=request.ids[few], score=request.score[few])
    assert torch.equal(MASKINGS[name](part).hidden, whole[few])


@pytest.mark.parametrize("name", [n for n, masking in MASKINGS.items() if isinstance(masking, Ranking)])
def test_ranks_are_distinct_so_that_every_device_sorts_them_alike(name: str) -> None:
    masking = MASKINGS[name]
    assert isinstance(masking, Ranking)
    for request in (ask(), ask(lengths=LENGTHS) if name not in NO_PADDING else ask()):
        real = torch.ones(16, 48, dtype=torch.bool) if request.valid is None else request.valid
        for ranks, valid in zip(masking.rank(request), real, strict=True):
            assert len(set(ranks[valid].tolist())) == int(valid.sum())


@each
def test_every_ingredient_of_chance_counts(name: str) -> None:
    request, masking = ask(), MASKINGS[name]
    first = masking(request).hidden
    assert torch.equal(first, masking(request).hidden)
    for other in (
        dataclasses.replace(request, step=dataclasses.replace(STEP, seed=8)),
        dataclasses.replace(request, step=dataclasses.replace(STEP, index=31)),
        dataclasses.replace(request, stream=1),
        dataclasses.replace(request, ids=request.ids + 1),
    ):
        assert not torch.equal(first, masking(other).hidden)


@each
def test_global_generators_stay_where_they_are(name: str) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]
    MASKINGS[name](ask())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]
    assert random.getstate() == before[2]


@each_padded
def test_padding_is_never_hidden_nor_counted(name: str) -> None:
    request = ask(lengths=LENGTHS)
    masking = copy.deepcopy(MASKINGS[name])
    mask = masking(request)
    assert request.valid is not None
    assert mask.valid is request.valid and mask.visible is None
    assert not (mask.hidden & ~request.valid).any()
    hidden = mask.hidden.sum(1)
    full = masking(ask())
    assert full.count is not None
    assert hidden[LENGTHS == 48].tolist() == [full.count] * 2
    share = hidden[LENGTHS > 1] / LENGTHS[LENGTHS > 1]
    # to half a site, or more where that would hide nothing or all
    assert ((share - full.count / 48).abs() <= 1 / LENGTHS[LENGTHS > 1]).all()
    assert (hidden[LENGTHS > 1] > 0).all() and (hidden[LENGTHS > 1] < LENGTHS[LENGTHS > 1]).all()
    assert (hidden[LENGTHS <= 1] == 0).all()


@pytest.mark.parametrize("name", [n for n in MASKINGS if n not in NO_PADDING and "block" not in n])
def test_how_much_padding_a_sample_gets_does_not_change_its_mask(name: str) -> None:
    short = torch.tensor([24, 17, 9, 22])
    small, large = (
        Request(
            torch.arange(4),
            n,
            STEP,
            grid=(n,),
            valid=torch.arange(n) < short[:, None],
            score=torch.ones(4, n),
        )
        for n in (24, 100)
    )
    first, second = (MASKINGS[name](request).hidden for request in (small, large))
    assert torch.equal(first, second[:, :24])


@each_padded
def test_padding_may_lie_anywhere(name: str) -> None:
    valid = torch.rand(64, 48, generator=torch.Generator().manual_seed(0)) < 0.6
    mask = MASKINGS[name](ask(64, valid=valid))
    assert not (mask.hidden & ~valid).any()
    assert (mask.hidden.sum(1) > 0).all() and ((~mask.hidden & valid).sum(1) > 0).all()


@each
def test_a_copy_draws_the_same(name: str) -> None:
    request, masking = ask(), MASKINGS[name]
    again = pickle.loads(pickle.dumps(masking))
    assert torch.equal(again(request).hidden, masking(request).hidden)
    assert torch.equal(copy.deepcopy(masking)(request).hidden, masking(request).hidden)


@each
def test_no_gradient_comes_back(name: str) -> None:
    request = ask()
    assert request.score is not None
    mask = MASKINGS[name](dataclasses.replace(request, score=request.score.requires_grad_()))
    assert not mask.hidden.requires_grad


UNIFORM = [name for name in MASKINGS if "score" not in name]


@pytest.mark.parametrize("name", UNIFORM)
@pytest.mark.parametrize("stream", [0, 1])
def test_every_site_is_hidden_equally_often(name: str, stream: int) -> None:
    n = 8192
    hidden = MASKINGS[name](ask(ids=torch.arange(n), score=None, stream=stream)).hidden
    assert_uniform(hidden.double().mean(0), n)


@pytest.mark.parametrize(
    "name", [name for name in UNIFORM if "span" in name or name in ("random", "disjoint")]
)
def test_every_place_of_a_short_sample_is_hidden_equally_often(name: str) -> None:
    n = 8192
    mask = MASKINGS[name](ask(ids=torch.arange(n), score=None, lengths=torch.full((n,), 17)))
    assert_uniform(mask.hidden[:, :17].double().mean(0), n)


def assert_uniform(rate: Tensor, n: int) -> None:
    """No site further from the mean than 5 standard errors, nor all of them together by chi-square.

    Sites of a shape go together, which widens the spread of chi-square but not its mean, the number
    of sites: hence the room.
    """
    mean = rate.mean()
    z = (rate - mean) / (mean * (1 - mean) / n).sqrt()
    assert z.abs().max() < 5, f"hidden between {rate.min():.3f} and {rate.max():.3f} of the time"
    assert z.square().mean() < 2


@each
def test_masks_are_those_of_every_release_before(name: str) -> None:
    """A resumed run, or one repeated, must not draw other masks: these numbers must never change."""
    hidden = MASKINGS[name](ask(2)).hidden
    word = int("".join(str(int(bit)) for bit in hidden.flatten()), 2)
    assert f"{word:024x}" == GOLDEN[name]


GOLDEN = {
    "random": "ffe52f7f75defeffef7de714",
    "random up": "5465053f058cd2470f1d2700",
    "random cells": "3333f0f0fcfcf3f30c0cf3f3",
    "block": "8f8f08000f0f3c38388f003c",
    "block inverse": "f1fffffff0f1c7c7fff7ffc7",
    "block tall": "1c3e3c3c3c3c7c74747c0c3c",
    "color": "7eeecfdf9f1fffffff7c381e",
    "color red": "0e0f8f9f9f1f3e7e7e7c383c",
    "color changing": "160444cb88021496903a5000",
    "span": "f01fff00f821f1f000fbc03f",
    "span of one": "0012d00080010100008200a3",
    "top-score": "5c6527ffffffd3df0f3f77ff",
    "top-score growing": "ffe52f7f75defeffef7de714",
    "scheduled": "5c652f7f15ced2dfcf3d6704",
    "scheduled block": "8f8f0c000f0f3c3838cf003c",
    "disjoint": "ffe52f7f75defeffef7de714",
    "disjoint cells": "3333f0f0fcfcf3f30c0cf3f3",
    "disjoint block": "8f8f8f8f0f1f3c3838efef3e",
    "disjoint color": "7eeecfdf9f1fffffff7c381e",
    "disjoint scheduled": "ff80fff8f801ffff80ffc001",
}


def test_every_masking_is_registered_and_builds_with_its_defaults() -> None:
    registry = polymask.default_registry()
    parts = {part.name: part for part in registry.parts("maskings") if part.plugin == "core"}
    assert set(parts) == {
        "bernoulli",
        "block",
        "color",
        "disjoint",
        "drawn-ratio",
        "frequency",
        "gumbel",
        "modalities",
        "multi-block",
        "partition",
        "random",
        "scheduled",
        "span",
        "threshold",
        "top-score",
        "tube",
        "tube-blocks",
    }
    for name, cls in (("random", Random), ("block", Block), ("span", Span), ("top-score", TopScore)):
        assert parts[name].load() is cls
    tags = {name: set(part.tags) for name, part in parts.items()}
    assert tags["block"] == {"grid", "uniform"} and tags["top-score"] == {"score"}
    assert tags["span"] == {"sequence", "uniform"} and tags["disjoint"] == {"uniform", "views"}


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, 75])
@pytest.mark.parametrize("cls", [Random, Block, Color, Span, TopScore])
def test_a_ratio_outside_0_and_1_is_refused(cls: Any, ratio: float) -> None:
    with pytest.raises(UserError, match=f"masking ratio must lie between 0 and 1, got {ratio}"):
        cls(ratio=ratio)


@pytest.mark.parametrize("cls", [Random, Block, Color, Span, TopScore])
def test_hiding_nothing_or_all_is_refused(cls: Any) -> None:
    request = Request(torch.arange(2), 12, STEP, grid=(12,), score=torch.zeros(2, 12))
    with pytest.raises(UserError, match=r"ratio 0.01 of 12 sites hides nothing"):
        cls(ratio=0.01)(request)
    with pytest.raises(UserError, match=r"ratio 0.99 of 12 sites hides everything"):
        cls(ratio=0.99)(request)


@pytest.mark.compile
@pytest.mark.parametrize(
    "name",
    [
        "random",
        "random cells",
        "block",
        "color changing",
        "span",
        "top-score growing",
        "scheduled block",
        "disjoint",
    ],
)
def test_drawing_compiles_in_one_graph(name: str) -> None:
    masking, request = copy.deepcopy(MASKINGS[name]), ask()

    def draw(ids: Tensor, score: Tensor, step: Step) -> Mask:
        return masking(dataclasses.replace(request, ids=ids, score=score, step=step))

    torch.compiler.reset()
    compiled = torch.compile(draw, fullgraph=True, backend="eager")
    for index in (30, 31, 32):
        step = dataclasses.replace(STEP, index=index)
        assert request.score is not None
        got, want = compiled(request.ids, request.score, step), draw(request.ids, request.score, step)
        assert torch.equal(got.hidden, want.hidden) and got.visible == want.visible
