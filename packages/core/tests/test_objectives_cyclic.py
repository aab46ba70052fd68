"""The geometric terms: what they are 0 for, what they compare, and what a mask leaves out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Mask, UserError
from polymask.objectives.cyclic import Cyclic

CROSS, WITHIN = Cyclic(within=0.0), Cyclic(cross=0.0)


def embeddings(seed: int = 0) -> Tensor:
    return torch.randn(5, 3, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_terms_are_sums_over_pairs_of_views_by_hand() -> None:
    one, other = embeddings(), embeddings(1)
    i, j = F.normalize(one, dim=-1), F.normalize(other, dim=-1)
    cross = within = 0.0
    for row in range(5):
        for p in range(3):
            for q in range(3):
                cross += float(i[row, p] @ j[row, q] - j[row, p] @ i[row, q]) ** 2
                within += float(i[row, p] @ i[row, q] - j[row, p] @ j[row, q]) ** 2
    assert float(CROSS(one, other)) == pytest.approx(cross / 5)
    assert float(WITHIN(one, other)) == pytest.approx(within / 5)
    both = Cyclic(cross=2.0, within=0.5)(one, other)
    assert float(both) == pytest.approx((2 * cross + 0.5 * within) / 5)


def test_a_rotation_of_one_modality_changes_how_they_meet_and_not_how_each_is() -> None:
    one = embeddings()
    turn, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))
    assert CROSS(one, one) == 0 and WITHIN(one, one) == 0
    assert float(WITHIN(one, one @ turn)) < 1e-12 < float(CROSS(one, one @ turn))
    moved = one.clone()
    moved[:, 0] += 0.5
    assert CROSS(one, moved) > 1e-3 and WITHIN(one, moved) > 1e-3
    # what is symmetric meets alike: opposite embeddings do
    assert CROSS(one, -one) < 1e-12


def test_lengths_do_not_matter_and_one_view_costs_nothing() -> None:
    one, other = embeddings(), embeddings(1)
    torch.testing.assert_close(Cyclic()(one, other), Cyclic()(3 * one, 0.1 * other))
    assert Cyclic()(one[:, :1], other[:, :1]) < 1e-12


def test_views_that_are_not_there_count_in_no_pair_and_empty_samples_in_no_mean() -> None:
    one, other = embeddings(), embeddings(1)
    there = torch.tensor([[1, 1, 0], [1, 0, 1], [1, 1, 1], [0, 0, 0], [0, 1, 0]]).bool()
    parts = [
        Cyclic()(one[[row]][:, there[row]], other[[row]][:, there[row]])
        for row in range(5)
        if there[row].any()
    ]
    torch.testing.assert_close(Cyclic()(one, other, Mask(there)), torch.stack(parts).mean())


def test_gradient_reaches_both_sides_and_cosines_are_of_full_precision() -> None:
    one, other = (embeddings(seed).float().requires_grad_() for seed in (0, 1))
    for objective in (CROSS, WITHIN):
        found = torch.autograd.grad(objective(one, other), (one, other))
        assert all(gradient.abs().amin(-1).max() > 1e-4 for gradient in found)
    with torch.autocast("cpu", torch.bfloat16):
        lower = Cyclic()(one, other)
    assert torch.equal(lower, Cyclic()(one, other))
    assert Cyclic()(one, other).dtype == torch.float32
    torch.testing.assert_close(Cyclic()(one, other), CROSS(one, other) + WITHIN(one, other))


def test_without_weights_and_for_other_shapes_it_is_refused() -> None:
    with pytest.raises(UserError, match=r"the prediction is \[5, 3, 8\], its target \[5, 1, 8\]"):
        Cyclic()(embeddings(), embeddings()[:, :1])
    with pytest.raises(UserError, match="both 0"):
        Cyclic(cross=0.0, within=0.0)
