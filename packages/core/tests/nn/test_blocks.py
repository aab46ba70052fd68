"""The block answers at some tokens what it answers at all, and ignores what attention is barred from."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from polymask import UserError
from polymask.nn.blocks import Block, Convolutions


@pytest.fixture
def block() -> Block:
    torch.manual_seed(0)
    made = Block(16, 4)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def test_it_is_torchs_pre_norm_layer_on_the_same_weights(block: Block) -> None:
    theirs = torch.nn.TransformerEncoderLayer(
        16, 4, 64, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    with torch.no_grad():
        for ours, name in (
            (block.attn.qkv.weight, "self_attn.in_proj_weight"),
            (block.attn.qkv.bias, "self_attn.in_proj_bias"),
            (block.attn.proj.weight, "self_attn.out_proj.weight"),
            (block.attn.proj.bias, "self_attn.out_proj.bias"),
            *((getattr(block, n).weight, f"{n}.weight") for n in ("norm1", "norm2")),
            *((getattr(block, n).bias, f"{n}.bias") for n in ("norm1", "norm2")),
            (block.mlp.fc1.weight, "linear1.weight"),
            (block.mlp.fc1.bias, "linear1.bias"),
            (block.mlp.fc2.weight, "linear2.weight"),
            (block.mlp.fc2.bias, "linear2.bias"),
        ):
            theirs.get_parameter(name).copy_(ours)
    x = torch.randn(3, 7, 16)
    torch.testing.assert_close(block(x), theirs(x), rtol=1e-5, atol=1e-6)


def test_some_tokens_are_answered_as_among_all(block: Block) -> None:
    x, real = torch.randn(2, 7, 16), torch.ones(2, 1, 1, 7, dtype=torch.bool)
    real[1, ..., 5:] = False
    some = torch.tensor([4, 0, 3])
    torch.testing.assert_close(block(x[:, some], real, x), block(x, real)[:, some], rtol=1e-5, atol=1e-6)


def test_where_no_token_asks_none_is_answered(block: Block) -> None:
    x = torch.randn(2, 7, 16, requires_grad=True)
    assert block(x[:, :0], None, x).shape == (2, 0, 16)
    assert block(x[:, :0]).shape == (2, 0, 16)


def test_what_is_barred_changes_nothing(block: Block) -> None:
    x, real = torch.randn(2, 7, 16), torch.ones(1, 7, dtype=torch.bool)
    real[:, 5:] = False
    other = torch.where(real[..., None], x, torch.randn_like(x))
    torch.testing.assert_close(block(x, real)[:, :5], block(other, real)[:, :5], rtol=1e-5, atol=1e-6)


# -------------------------------------------------------------------------------- convolutions


def stack(**options: Any) -> Convolutions:
    torch.manual_seed(0)
    return Convolutions(**{"widths": [8, 12, 12], "kernel": 3, "groups": 4, **options})


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("residual", [False, True])
def test_convolutions_are_torchs_with_norm_and_gelu_behind_each(axes: int, residual: bool) -> None:
    grid = (5, 4, 3)[:axes]
    made, x = stack(grid=grid, residual=residual), torch.randn(2, math.prod(grid), 8)
    y = x.transpose(1, 2).unflatten(2, grid)
    for layer in made.layers:
        norm = torch.nn.LayerNorm(12, elementwise_affine=False)
        out = torch.nn.functional.gelu(norm(layer(y).movedim(1, -1))).movedim(-1, 1)
        y = y + out if residual and y.shape == out.shape else out
    assert all(layer.groups == 4 for layer in made.layers)
    assert isinstance(made.layers[0], (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)[axes - 1])
    torch.testing.assert_close(made(x), y.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-5)


def test_padding_is_to_a_convolution_as_if_the_sequence_ended() -> None:
    made, x = stack(), torch.randn(2, 9, 8)
    valid = torch.arange(9) < torch.tensor([[9], [5]])
    x[1, 5:] = torch.nan
    torch.testing.assert_close(made(x, valid)[1, :5], made(x[1:, :5])[0], rtol=1e-4, atol=1e-5)
    assert made(x, valid)[0].isfinite().all()


def test_impossible_convolutions_are_refused() -> None:
    with pytest.raises(UserError, match="odd number of tokens, got 4"):
        stack(kernel=4)
    with pytest.raises(UserError, match="3 groups do not divide convolutions of 8, 12 channels"):
        stack(groups=3)
    with pytest.raises(UserError, match="these tokens lie on 4"):
        stack(grid=(2, 2, 2, 2))
