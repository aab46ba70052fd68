"""One vector per sample, from the tokens that are real."""

from __future__ import annotations

import pytest
import torch

from polymask import Tokens

X = torch.tensor([[[1.0, 10.0], [3.0, 30.0], [8.0, 80.0]], [[2.0, 2.0], [4.0, 4.0], [6.0, 6.0]]])
POSITION = torch.zeros(2, 3, 1)


def test_shape() -> None:
    assert Tokens(X, POSITION).shape == (2, 3)


def test_pool_is_the_mean_of_tokens() -> None:
    assert Tokens(X, POSITION).pool().tolist() == [[4, 40], [4, 4]]


def test_pool_leaves_padding_out_even_where_it_is_nan() -> None:
    valid = torch.tensor([[True, True, False], [True, True, True]])
    x = torch.where(valid[..., None], X, float("nan"))
    assert Tokens(x, POSITION, valid=valid).pool().tolist() == [[2, 20], [4, 4]]


def test_pool_of_a_sample_without_tokens_is_zero() -> None:
    valid = torch.tensor([[False] * 3, [True] * 3])
    assert Tokens(X, POSITION, valid=valid).pool().tolist() == [[0, 0], [4, 4]]


def test_padding_gets_no_gradient_from_pool() -> None:
    x, valid = X.clone().requires_grad_(), torch.tensor([[True, False, False], [True, True, True]])
    Tokens(x, POSITION, valid=valid).pool().sum().backward()
    assert x.grad is not None
    assert x.grad[0, :, 0].tolist() == [1, 0, 0]
    assert torch.allclose(x.grad[1], torch.tensor(1 / 3))


def test_pool_stays_in_its_dtype() -> None:
    valid = torch.ones(2, 3, dtype=torch.bool)
    for tokens in (Tokens(X.bfloat16(), POSITION), Tokens(X.bfloat16(), POSITION, valid=valid)):
        assert tokens.pool().dtype == torch.bfloat16


def test_pool_of_the_prefix_is_its_first_token() -> None:
    prefix = torch.tensor([[[5.0, 6.0], [0.0, 0.0]]]).expand(2, -1, -1)
    assert Tokens(X, POSITION, prefix=prefix).pool("prefix").tolist() == [[5, 6], [5, 6]]


def test_what_cannot_be_pooled_is_told() -> None:
    with pytest.raises(ValueError, match="no class token"):
        Tokens(X, POSITION).pool("prefix")
    with pytest.raises(ValueError, match="choose 'mean' or 'prefix'"):
        Tokens(X, POSITION).pool("max")
