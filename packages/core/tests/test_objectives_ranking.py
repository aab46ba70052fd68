"""Rankings by their closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import Mask, UserError
from polymask.objectives.ranking import Pairwise, StandardisedMSE


def column(*rows: list[float]) -> Tensor:
    return torch.tensor(rows)[..., None]


def noise(seed: int) -> Tensor:
    return torch.rand(3, 9, 1, generator=torch.Generator().manual_seed(seed))


def test_closed_forms_of_pairs() -> None:
    loss, cost = Pairwise(), noise(0)
    assert loss(torch.full((3, 9, 1), 5.0), cost).item() == pytest.approx(math.log(2))
    assert loss(1e4 * cost, cost) < 1e-2
    assert loss(-1e2 * cost, cost) > 10
    # minus log sigmoid of the lead of the larger one
    two = loss(column([0.3, 1.0]), column([2.0, 1.0]))
    assert two.item() == pytest.approx(math.log1p(math.exp(0.7)))


def test_pairs_know_neither_offset_nor_order() -> None:
    loss, cost, guess = Pairwise(), noise(0), noise(1)
    expected = loss(guess, cost)
    torch.testing.assert_close(loss(guess + column([1.0], [-7.0], [3.0]), cost), expected)
    order = torch.randperm(9)
    torch.testing.assert_close(loss(guess[:, order], cost[:, order]), expected)


def test_ties_do_not_count_and_hopeless_pairs_still_learn() -> None:
    cost, guess = column([1.0, 1.0, 2.0]), column([9.0, -9.0, 0.0]).requires_grad_()
    expected = (math.log1p(math.exp(9)) + math.log1p(math.exp(-9))) / 2
    assert Pairwise()(guess, cost).item() == pytest.approx(expected)
    Pairwise()(10 * guess, cost).backward()
    assert guess.grad is not None and guess.grad[0, 0, 0] == pytest.approx(5, rel=1e-3)
    assert Pairwise()(guess, torch.ones(1, 3, 1)) == 0


def test_each_number_of_a_site_is_ranked_by_itself() -> None:
    cost, guess = torch.cat([noise(0), noise(1)], -1), torch.cat([noise(2), noise(3)], -1)
    alone = [Pairwise()(guess[..., d : d + 1], cost[..., d : d + 1]) for d in range(2)]
    torch.testing.assert_close(Pairwise()(guess, cost), (alone[0] + alone[1]) / 2)


def test_standardised_targets() -> None:
    cost = noise(0)
    standard = (cost - cost.mean(1, keepdim=True)) / (cost.var(1, keepdim=True) + 1e-6).sqrt()
    assert StandardisedMSE()(standard, cost).item() == pytest.approx(0, abs=1e-10)
    assert StandardisedMSE()(0 * cost, cost).item() == pytest.approx(8 / 9, rel=1e-3)
    torch.testing.assert_close(
        StandardisedMSE()(standard, 100 * cost + 7), StandardisedMSE()(standard, cost), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize(("loss", "counts"), [(Pairwise(), (10, 3)), (StandardisedMSE(), (5, 3))])
def test_what_is_not_hidden_does_not_rank(loss: Any, counts: tuple[int, int]) -> None:
    cost, guess = noise(0)[:2, :5], noise(1)[:2, :5]
    real = torch.arange(5) < torch.tensor([[5], [3]])
    alone = [loss(guess[i : i + 1, :n], cost[i : i + 1, :n]) for i, n in enumerate((5, 3))]
    expected = sum(a * n for a, n in zip(alone, counts, strict=True)) / sum(counts)
    torch.testing.assert_close(loss(guess, cost, Mask(real)), expected)
    real = real[..., None]
    changed = torch.where(real, guess, 1e4), torch.where(real, cost, float("nan"))
    torch.testing.assert_close(loss(*changed, Mask(real[..., 0])), expected)


def test_shapes_must_agree() -> None:
    with pytest.raises(UserError, match=r"the prediction is \[1, 3, 1\], its target \[1, 3\]"):
        Pairwise()(torch.zeros(1, 3, 1), torch.zeros(1, 3))
