"""Transformers over tokens of points."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from polymask import UserError
from polymask.nn.blocks import Stack, initialise
from polymask.types import Count, Fact, Positive, Share, Whole
from polymask_pointcloud.tokenizers import UNIT


class PointNet(nn.Module):
    """Embeds each set of points on its own, whatever their order and however often one is repeated.

    The two-stage network of Point-MAE (Pang et al. 2022, arXiv 2203.06604), after PointNet (Qi et al.
    2017): features of each point, their maximum beside them, features again, their maximum. With layer
    norms where it has batch norms, by which hidden tokens would reach visible ones.

    Args:
        channels: numbers per point.
        dim: width of the result.
    """

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        width = max(dim // 3, 16)
        self.channels = channels
        self.first = nn.Sequential(
            nn.Linear(channels, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, 2 * width)
        )
        self.second = nn.Sequential(
            nn.Linear(4 * width, 4 * width), nn.LayerNorm(4 * width), nn.GELU(), nn.Linear(4 * width, dim)
        )

    def forward(self, values: Tensor) -> Tensor:
        """``[B, K, k * channels]`` to ``[B, K, dim]``."""
        x = self.first(values.reshape(*values.shape[:-1], -1, self.channels))
        whole = x.amax(dim=-2, keepdim=True).expand_as(x)
        embedded: Tensor = self.second(torch.cat([whole, x], dim=-1)).amax(dim=-2)
        return embedded


class Transformer(Stack):
    """timm's blocks over embedded sets of points, on any subset of tokens.

    A position is a small network of the token's centre, added once, before the first block.

    Args:
        in_dim: numbers per token, from the tokenizer.
        channels: numbers per point, from the tokenizer.
        axes: numbers per position, from the tokenizer.
        dim: width.
        depth: blocks.
        heads: attention heads per block.
        mlp_ratio: width of the feed-forward layers over ``dim``.
        drop_path: stochastic depth rate of the last block, rising linearly from 0.
    """

    prefix = 0

    def __init__(
        self,
        *,
        in_dim: Fact[Count] = 96,
        channels: Fact[Count] = 3,
        axes: Fact[Count] = 3,
        dim: Count = 384,
        depth: Whole = 12,
        heads: Count = 6,
        mlp_ratio: Positive = 4.0,
        drop_path: Share = 0.0,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise UserError(f"encoder width {dim} is not divisible by {heads} heads")
        if in_dim % channels:
            raise UserError(f"tokens of {in_dim} numbers are not whole points of {channels}")
        self.dim = self.out_dim = dim
        self.points = PointNet(channels, dim)
        self.position = nn.Sequential(nn.Linear(axes, 128), nn.GELU(), nn.Linear(128, dim))
        rates = torch.linspace(0, drop_path, depth).tolist()
        self.blocks: Any = nn.ModuleList(
            Block(dim, heads, mlp_ratio=mlp_ratio, qkv_bias=True, drop_path=rate) for rate in rates
        )
        self.norm = nn.LayerNorm(dim)
        # The networks of points and of centres keep torch's initialisation, biases too: without those a norm
        # behind a map of three numbers tells directions and no distances; with small weights, centres weigh
        # next to nothing
        initialise(self.blocks)

    def embed(self, values: Tensor) -> Tensor:
        """``[B, K, in_dim] -> [B, K, dim]``, places of points in steps of ``position``."""
        points = values.reshape(*values.shape[:-1], -1, self.points.channels)
        points = torch.cat([points[..., :3] / UNIT, points[..., 3:]], dim=-1)
        embedded: Tensor = self.points(points.flatten(-2))
        return embedded

    def begin(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """What the first block gets, ``[B, K, dim]``, and where attention may go, bool or None."""
        x = x + self.position(UNIT * position.to(x.dtype))
        return x, None if valid is None else valid[:, None, None, :]
