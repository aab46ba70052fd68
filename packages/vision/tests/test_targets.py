"""Targets by their closed forms, without gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from polymask import Tokens
from polymask_vision.targets import Pixels, Variance


def tokens(values: Tensor) -> Tokens:
    return Tokens(values, torch.zeros(*values.shape[:2], 2))


def test_normalised_patches_have_mean_zero_and_unbiased_variance_one() -> None:
    values = torch.randn(2, 5, 48) * 3 + 10
    target = Pixels(in_dim=48, patch_norm=True)({}, tokens(values))
    torch.testing.assert_close(target.mean(dim=-1), torch.zeros(2, 5), rtol=0, atol=1e-5)
    torch.testing.assert_close(target.var(dim=-1), torch.ones(2, 5), rtol=1e-5, atol=0)
    by_hand = (values[0, 0] - values[0, 0].mean()) / (values[0, 0].var() + 1e-6).sqrt()
    torch.testing.assert_close(target[0, 0], by_hand)


def test_predicting_zero_costs_n_minus_one_of_n() -> None:
    target = Pixels(in_dim=16, patch_norm=True)({}, tokens(torch.randn(4, 9, 16)))
    torch.testing.assert_close(target.square().mean(), torch.tensor(15 / 16), rtol=1e-5, atol=0)


def test_a_flat_patch_is_zero_and_finite() -> None:
    target = Pixels(in_dim=16, patch_norm=True)({}, tokens(torch.full((1, 2, 16), 7.0)))
    assert torch.equal(target, torch.zeros(1, 2, 16))


@pytest.mark.parametrize("patch_norm", [True, False])
def test_pixels_come_back_from_their_own_target(patch_norm: bool) -> None:
    target, seen = Pixels(in_dim=16, patch_norm=patch_norm), tokens(torch.randn(2, 3, 16) * 2 + 1)
    values, note = target.invert(target({}, seen), seen)
    torch.testing.assert_close(values, seen.values, rtol=1e-5, atol=1e-5)
    assert ("its own true mean" in note) == patch_norm


def test_raw_pixels_are_the_values() -> None:
    values = torch.randn(2, 3, 16)
    assert torch.equal(Pixels(in_dim=16)({}, tokens(values)), values)


def test_variance_is_unbiased_and_one_per_token() -> None:
    values = torch.tensor([[[1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 5.0]]])
    score = Variance(in_dim=4)({}, tokens(values))
    torch.testing.assert_close(score, torch.tensor([[[14 / 3], [0.0]]]))
    assert Variance(in_dim=4).dim == 1


@pytest.mark.parametrize(
    "target",
    [Pixels(in_dim=8), Pixels(in_dim=8, patch_norm=True), Variance(in_dim=8)],
    ids=["raw", "norm", "variance"],
)
def test_targets_are_float32_without_gradient_or_parameters(target: Pixels | Variance) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        values = torch.randn(1, 3, 8, dtype=dtype, requires_grad=True)
        out = target({}, tokens(values))
        assert out.dtype == torch.float32
        assert not out.requires_grad
        assert out.shape == (1, 3, target.dim)
    assert not list(target.parameters())
