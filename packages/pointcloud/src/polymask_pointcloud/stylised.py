"""A Transformer over time whose layers are modulated by what it is told.

That of HumanMAC, after MotionDiffuse (Zhang et al. 2022, arXiv 2208.15001).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import UserError
from polymask.nn.positions import sincos
from polymask.types import Count, Fact, Positive, Share


class Stylisation(nn.Module):
    """A norm, scaled and shifted by a condition, and a linear map that begins at 0."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.modulation = nn.LayerNorm(dim), nn.Linear(dim, 2 * dim)
        self.dropout, self.out = nn.Dropout(dropout), nn.Linear(dim, dim)
        zero(self.out)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """``[B, N, dim]`` under a condition ``[B, dim]``."""
        scale, shift = self.modulation(F.silu(condition))[:, None].chunk(2, dim=-1)
        out: Tensor = self.out(self.dropout(F.silu(self.norm(x) * (1 + scale) + shift)))
        return out


class StylisedBlock(nn.Module):
    """Attention and a feed-forward layer, each followed by a stylisation and added: the identity at first."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm, self.qkv = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim, bias=False)
        self.style_1, self.style_2 = Stylisation(dim, dropout), Stylisation(dim, dropout)
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim)
        )
        zero(self.mlp[-1])

    def forward(self, x: Tensor, condition: Tensor, attend: Tensor | None) -> Tensor:
        """``[B, N, dim]``; ``attend`` is False where attention must not go."""
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        rate = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attend, dropout_p=rate)
        x = x + self.style_1(mixed.transpose(1, 2).flatten(2), condition)
        out: Tensor = x + self.style_2(self.mlp(x), condition)
        return out


class Stylised(nn.Module):
    """Attention over poses, or over coefficients of them, whose layers are told a time and more.

    The input of each layer of the first half is added to the output of its mirror image in the second half.
    Alone it sees its input at time 0.

    Args:
        frames: of a sample, from the data; positions are learned, one for each.
        joints: of a frame, from the data.
        dim: width.
        depth: layers.
        heads: attention heads.
        mlp_ratio: width of the feed-forward layers over ``dim``.
        dropout: share of attention and of features that is dropped.
    """

    prefix, downsample, needs_grid = 0, 1, False

    def __init__(
        self,
        *,
        frames: Fact[Count] = 20,
        joints: Fact[Count] = 6,
        dim: Count = 512,
        depth: Count = 8,
        heads: Count = 8,
        mlp_ratio: Positive = 2.0,
        dropout: Share = 0.2,
    ) -> None:
        super().__init__()
        if dim % heads or dim % 2:
            raise UserError(f"encoder width {dim} must be even and divisible by {heads} heads")
        self.dim = self.out_dim = dim
        self.depth = depth
        self.pose, self.position = nn.Linear(3 * joints, dim), nn.Parameter(torch.randn(frames, dim))
        self.time = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.blocks = nn.ModuleList(
            StylisedBlock(dim, heads, round(mlp_ratio * dim), dropout) for _ in range(depth)
        )

    def embed(self, values: Tensor) -> Tensor:
        """``[B, K, 3 J] -> [B, K, dim]``."""
        out: Tensor = self.pose(values)
        return out

    def condition(self, time: Tensor, other: Tensor | None = None) -> Tensor:
        """What layers are modulated by, ``[B, dim]``: a time ``[B]``, and what else is told, ``[B, dim]``."""
        told: Tensor = self.time(sincos(time[:, None].float(), self.dim))
        return told if other is None else told + other

    def layers(
        self, x: Tensor, position: Tensor, valid: Tensor | None = None, condition: Tensor | None = None
    ) -> list[Tensor]:
        """The output of every layer, ``[B, K, dim]`` each."""
        if condition is None:
            condition = self.condition(torch.zeros(len(x), device=x.device))
        attend = None if valid is None else valid[:, None, None, :]
        x = x + self.position[position[..., 0].long()].to(x.dtype)
        inputs, outputs = list[Tensor](), list[Tensor]()
        for i, block in enumerate(self.blocks):
            if i < self.depth // 2:
                inputs.append(x)
            x = block(x, condition, attend)
            if i >= self.depth // 2 and inputs:
                x = x + inputs.pop()
            outputs.append(x)
        return outputs

    def forward(
        self, x: Tensor, position: Tensor, valid: Tensor | None = None, condition: Tensor | None = None
    ) -> Tensor:
        """``[B, K, dim]`` at ``[B, K, P]``, the first axis time, to ``[B, K, dim]``."""
        return self.layers(x, position, valid, condition)[-1]


def zero(module: Any) -> None:
    """Let a linear map begin at 0."""
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
