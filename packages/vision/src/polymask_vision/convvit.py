"""A Transformer behind convolutions that see no hidden pixel."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from timm.layers.mlp import Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from polymask import UserError
from polymask.nn.blocks import initialise
from polymask.nn.positions import SinCos, check_width
from polymask.types import Count, Fact, Positive, Whole
from polymask_vision.positions import grid_index

_norm: Any = functools.partial(nn.LayerNorm, eps=1e-6)
_SIDES = (4, 2)
"""Cells along the side of a token in the two stages of convolutions."""


class ConvViT(nn.Module):
    """ConvMAE's encoder (Gao et al. 2022, arXiv 2205.03892), on any subset of the tokens of a grid.

    Each token is cut into 4 x 4 cells, then 2 x 2, then it is one; two stages of convolution blocks
    on the cells are followed by Transformer blocks on the tokens. The only operation that mixes
    places before attention is a depthwise convolution of 5 x 5 cells. It runs over the grid with
    zeros where tokens were left out, so nothing hidden reaches it; all else is computed for the
    given tokens alone. What both stages made is added to the Transformer's output.

    The convolutions of the release that have a kernel as large as their stride are linear maps of a
    cell or token here: the same, on tokens.

    Args:
        in_dim: numbers per token, from the tokenizer.
        grid: token rows and columns, from the tokenizer.
        patch_size: side of a token in pixels, from the tokenizer; a multiple of 4.
        dim: width of the Transformer.
        depth: Transformer blocks.
        heads: attention heads per block.
        mlp_ratio: width of the feed-forward layers over ``dim``.
        conv_dims: widths of the two stages of convolutions.
        conv_depths: blocks of each.
        conv_mlp_ratio: width of their feed-forward layers over their width (ConvMAE: 4; DMJD: 8).
    """

    needs_grid = False
    downsample = 1
    prefix = 0

    def __init__(
        self,
        *,
        in_dim: Fact[Count] = 768,
        grid: Fact[tuple[Count, Count] | None] = (14, 14),
        patch_size: Fact[Count] = 16,
        dim: Count = 768,
        depth: Whole = 11,
        heads: Count = 12,
        mlp_ratio: Positive = 4.0,
        conv_dims: tuple[Count, Count] = (256, 384),
        conv_depths: tuple[Whole, Whole] = (2, 2),
        conv_mlp_ratio: Positive = 8.0,
    ) -> None:
        super().__init__()
        if grid is None or len(grid) != 2:
            raise UserError(f"convolutions need tokens on a grid of rows and columns, and these have {grid}")
        if patch_size % 4:
            raise UserError(
                f"conv-vit cuts tokens into 4 x 4 cells, and patches of {patch_size} pixels cannot be: "
                "choose a --tokenizer.patch_size divisible by 4"
            )
        if dim % heads:
            raise UserError(f"encoder width {dim} is not divisible by {heads} heads")
        check_width(dim, 2)
        first, second = conv_dims
        self.grid, self.patch_size = (grid[0], grid[1]), patch_size
        self.dim, self.out_dim = 16 * first, dim
        self.cells = _reduce(in_dim // 16, first)
        self.merge = _reduce(4 * first, second)
        self.token = nn.Sequential(_reduce(4 * second, dim), nn.Linear(dim, dim))
        self.stages = nn.ModuleList(
            nn.ModuleList(_ConvBlock(width, conv_mlp_ratio) for _ in range(count))
            for width, count in zip(conv_dims, conv_depths, strict=True)
        )
        self.skips = nn.ModuleList([nn.Linear(16 * first, dim), nn.Linear(4 * second, dim)])
        self.positions = SinCos(dim, self.grid)
        self.blocks = nn.ModuleList(
            Block(dim, heads, mlp_ratio, qkv_bias=True, norm_layer=_norm) for _ in range(depth)
        )
        self.norm = _norm(dim)
        initialise(self)

    @property
    def feed_forwards(self) -> list[nn.Module]:
        """The feed-forward layer of each block of the Transformer."""
        return [block.mlp for block in self.blocks]  # type: ignore[misc]

    def embed(self, values: Tensor) -> Tensor:
        """Pixels ``[B, K, p * p * C]`` to the embedded cells of each token, ``[B, K, dim]``."""
        p, side = self.patch_size, _SIDES[0]
        b, k = values.shape[:2]
        x = values.reshape(b, k, side, p // side, side, p // side, -1).transpose(3, 4)
        embedded: Tensor = self.cells(x.reshape(b, k, side * side, -1)).flatten(2)
        return embedded

    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        """``[B, K, dim]`` at ``[B, K, 2]`` to ``[B, K, out_dim]``."""
        place = _Place(position, valid, self.grid)
        b, k = x.shape[:2]
        x = x.view(b, k, 16, -1)
        for block in self.stages[0]:  # type: ignore[attr-defined]
            x = block(x, place, _SIDES[0])
        coarse = self.skips[0](x.flatten(2))
        x = self.merge(x.view(b, k, 2, 2, 2, 2, -1).transpose(3, 4).reshape(b, k, 4, -1))
        for block in self.stages[1]:  # type: ignore[attr-defined]
            x = block(x, place, _SIDES[1])
        coarse = coarse + self.skips[1](x.flatten(2))
        table = self.positions(position)[0]
        x = self.token(x.flatten(2)) + table[grid_index(position, self.grid)].to(x.dtype)
        attend = None if valid is None else valid[:, None, None, :]
        for layer in self.blocks:
            x = layer(x, attn_mask=attend)
        encoded: Tensor = self.norm(x + coarse)
        return encoded


def _reduce(in_dim: int, dim: int) -> nn.Sequential:
    """A linear map of neighbours, norm, GELU."""
    return nn.Sequential(nn.Linear(in_dim, dim), nn.LayerNorm(dim), nn.GELU())


class _Place:
    """Where the given tokens lie in the grid: puts what they hold there, and takes it back."""

    def __init__(self, position: Tensor, valid: Tensor | None, grid: tuple[int, int]) -> None:
        self.grid, self.sites = grid, math.prod(grid)
        site = grid_index(position, grid)
        row = torch.arange(site.shape[0], device=site.device)[:, None]
        # padding goes to a site behind the last, which is dropped
        real = site if valid is None else torch.where(valid, site, self.sites)
        self.into, self.back = (row * (self.sites + 1) + real).flatten(), (row * self.sites + site).flatten()

    def mix(self, x: Tensor, convolution: nn.Conv2d, side: int) -> Tensor:
        """``[B, K, side * side, C]`` through a convolution over the cells of the whole grid."""
        (b, k, cells, c), (h, w) = x.shape, self.grid
        flat = x.new_zeros(b * (self.sites + 1), cells * c).index_copy(0, self.into, x.reshape(b * k, -1))
        dense = flat.view(b, self.sites + 1, -1)[:, : self.sites].view(b, h, w, side, side, c)
        dense = dense.permute(0, 5, 1, 3, 2, 4).reshape(b, c, h * side, w * side)
        dense = convolution(dense).view(b, c, h, side, w, side).permute(0, 2, 4, 3, 5, 1)
        mixed: Tensor = dense.reshape(b * self.sites, -1).index_select(0, self.back)
        return mixed.view(b, k, cells, c)


class _ConvBlock(nn.Module):
    """A depthwise convolution between two linear maps, then a feed-forward layer, both residual."""

    def __init__(self, dim: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.before, self.after = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.convolution = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.mlp = Mlp(dim, int(mlp_ratio * dim))

    def forward(self, x: Tensor, place: _Place, side: int) -> Tensor:
        x = x + self.after(place.mix(self.before(self.norm1(x)), self.convolution, side))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out
