"""Scores of words: the formula in closed form, what padding must not change, and the law of the release."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from polymask.protocols import Attended
from polymask_vision.word_scores import Read, gradient, gradient_released, smoothed, stretched, word_scores

N, D = 7, 6
LAST = 5
CONTENT = torch.tensor([[False, True, True, True, True, False, False]])
"""A start, four words, an end, padding."""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def read(value: Tensor, image: Tensor, **changed: Any) -> Read:
    """One block whose output is what is mixed, with even attention and queries and keys that are alike."""
    weights = changed.pop("weights", torch.full((1, 2, N, N), 1 / N))
    mixed = (weights.mean(1) @ value).requires_grad_()
    query, key = changed.pop("query", torch.ones(1, N, D)), changed.pop("key", torch.ones(1, N, D))
    block = Attended(query, key, value, mixed, weights)
    return Read(image, mixed * 1, [block], torch.tensor([LAST]), CONTENT, **changed)


def keys() -> Tensor:
    """Keys of falling likeness to a query of ones along the first axis, from word to word."""
    key = torch.zeros(1, N, D)
    key[0, :, 0], key[0, :, 1] = 1.0, torch.tensor([0.0, 0.0, 0.5, 1.0, 2.0, 0.0, 0.0])
    return key


def test_the_score_is_gradient_times_value_times_likeness_times_attention() -> None:
    value, image = random(1, N, D), random(1, D, seed=1)
    query = torch.zeros(1, N, D)
    query[..., 0] = 1.0
    weights = random(1, 2, N, N, seed=2).softmax(-1)
    case = read(value, image, query=query, key=keys(), weights=weights, scales=(1,))
    found = gradient(case)[0]
    o = case.blocks[0].mixed[0, LAST].detach()
    unit, cosine = o / o.norm(), F.cosine_similarity(o, image[0], dim=0)
    slope = (image[0] / image.norm() - cosine * unit) / o.norm()  # of the cosine, in closed form
    like = F.cosine_similarity(query[0, LAST], keys()[0], dim=-1)[1:5]
    like = (like - like.min()) / (like.max() - like.min())
    attends = weights[0].mean(0)[LAST, 1:5]
    expected = ((slope * value[0, 1:5]).sum(-1) * like * attends / attends.sum()).relu()
    torch.testing.assert_close(found[1:5], expected)
    assert expected.any() and not found[[0, 5, 6]].any()


def test_a_word_along_the_image_is_highest_and_one_against_it_is_nothing() -> None:
    image = F.normalize(random(1, D, seed=1), dim=-1)
    value = 0.1 * random(1, N, D)
    value[0, 2], value[0, 4] = 3 * image[0], -3 * image[0]
    query = torch.ones(1, N, D)
    # all words but one are alike to the query
    key = torch.ones(1, N, D)
    key[0, 1, 0] = -3.0
    found = word_scores(read(value, image, query=query, key=key), "gradient")[0]
    assert found[2] == found.max() == 1 and found[4] == 0


def test_finite_differences_agree_with_the_gradient() -> None:
    value, image = random(1, N, D).double(), random(1, D, seed=1).double()
    case = read(
        value,
        image,
        query=torch.ones(1, N, D).double(),
        key=keys().double(),
        scales=(1,),
        weights=torch.full((1, 2, N, N), 1 / N).double(),
    )
    found = gradient(case)[0, 1:5]
    o = case.blocks[0].mixed[0, LAST].detach()
    step = 1e-6
    up, down = (F.cosine_similarity(o + s * torch.eye(D), image, dim=-1) for s in (step, -step))
    slope = (up - down) / (2 * step)
    like = F.cosine_similarity(torch.ones(D).double(), keys()[0].double(), dim=-1)[1:5]
    like = (like - like.min()) / (like.max() - like.min())
    torch.testing.assert_close(found, ((slope * value[0, 1:5]).sum(-1) * like / 4).relu())


def test_the_release_turns_scores_around_where_importance_sums_below_0() -> None:
    turned = 0
    for seed in range(40):
        value, image = random(1, N, D, seed=seed), random(1, D, seed=100 + seed)
        case = lambda: read(value, image, key=keys(), query=torch.eye(1, D).expand(1, N, D), scales=(1,))  # noqa: B023, E731
        ours, theirs = gradient(case())[0], gradient_released(case())[0]
        o = case().blocks[0].mixed[0, LAST].detach()
        both = ((ours > 0) & (theirs > 0)).any()
        assert not (both and ((ours > 0) & (theirs == 0)).any()), "signs are one caption's alike"
        turned += bool(theirs.any() and not both)
        assert o.isfinite().all()
    assert 8 <= turned <= 32


def test_padding_changes_nothing() -> None:
    value, image = random(1, N, D), random(1, D, seed=1)
    query, key = random(1, N, D, seed=3), random(1, N, D, seed=4)
    weights = random(1, 2, N, N, seed=2).masked_fill(torch.arange(N) > LAST, -torch.inf).softmax(-1)
    first = word_scores(read(value, image, query=query, key=key, weights=weights), "gradient")
    for x in (query, key, value):
        x[:, LAST + 1 :] += 100.0
    again = word_scores(read(value, image, query=query, key=key, weights=weights), "gradient")
    torch.testing.assert_close(first, again)


def test_neighbours_are_averaged_and_spread_back() -> None:
    x = random(2, 6, 3)
    real = torch.ones(2, 6, dtype=torch.bool)
    pooled = F.avg_pool1d(x.transpose(1, 2), 2)
    up = F.interpolate(pooled, size=6, mode="linear").transpose(1, 2)
    torch.testing.assert_close(smoothed(x, real, (1, 2)), (x + up) / 2)
    torch.testing.assert_close(smoothed(x, real, (1,)), x)
    # what is not real weighs nothing, so constants stay constant in rows of any length
    ones = torch.where(torch.arange(9)[None, :, None] < 5, 1.0, torch.nan).expand(2, 9, 3)
    found = smoothed(ones, torch.arange(9).expand(2, 9) < 5, (1, 2, 3))
    torch.testing.assert_close(found[:, :5], torch.ones(2, 5, 3))


def test_scores_lie_between_the_ends_of_their_caption_or_of_the_batch() -> None:
    x = torch.tensor([[9.0, 1.0, 3.0, 2.0], [9.0, 10.0, 10.0, 30.0], [9.0, 4.0, 4.0, 4.0]])
    content = torch.tensor([[False, True, True, True]]).expand(3, 4)
    expected = torch.tensor([[0, 0, 1, 0.5], [0, 0, 0, 1], [0, 0, 0, 0]])
    torch.testing.assert_close(stretched(x, content), expected)
    whole = torch.where(content, (x - 1) / 29, 0)
    torch.testing.assert_close(stretched(x, content, whole=True), whole)
    none = stretched(x, torch.zeros_like(content))
    assert not none.any()


@pytest.mark.parametrize("evidence", ["gradient", "gradient-released", "cosine", "attention"])
def test_every_evidence_gives_scores_without_gradient(evidence: Any) -> None:
    value, image = random(1, N, D), random(1, D, seed=1)
    weights = random(1, 2, N, N, seed=2).softmax(-1)
    case = read(value, image, key=random(1, N, D, seed=3), query=random(1, N, D, seed=4), weights=weights)
    found = word_scores(case, evidence)
    assert found.dtype == torch.float32 and not found.requires_grad and found.shape == (1, N)
    assert found.min() >= 0 and found.max() <= 1 and not found[~CONTENT].any() and found.any()
    if evidence == "cosine":
        plain = F.cosine_similarity(case.text[0, 1:5], image, dim=-1).detach()
        torch.testing.assert_close(found[0, 1:5], (plain - plain.min()) / (plain.max() - plain.min()))
    if evidence == "attention":
        assert int(found[0].argmax()) == int(weights[0].mean(0)[LAST, 1:5].argmax()) + 1
