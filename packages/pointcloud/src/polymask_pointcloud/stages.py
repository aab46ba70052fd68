"""What a U-Net over occupied cells is made of: convolutions, attention along a curve, changes of scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.layers.drop import drop_path
from torch import Tensor, nn

from polymask import UserError
from polymask.nn.blocks import Block
from polymask_pointcloud.operations.sparse import (
    Level,
    Pairs,
    convolve,
    mean_at,
)


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells that tokens of a batch lie in, at every level of a U-Net.

    Args:
        levels: finest first.
        token: int64 ``[T]``, the finest cell of each real token.
        real: int64 ``[T]``, where real tokens stand among the ``B * K``.
        place: float64 ``[T, 3]``, where they lie, in finest cells.
    """

    levels: Sequence[Level]
    token: Tensor
    real: Tensor
    place: Tensor

    def mean(self, x: Tensor) -> list[Tensor]:
        """What belongs to tokens ``[B, K, C]``, averaged over the cells of each level, ``[M, C]`` each."""
        means = [mean_at(x.flatten(0, 1)[self.real], self.token, len(self.levels[0]))]
        for level in self.levels[:-1]:
            means.append(level.mean(means[-1]))
        return means


class Stage(nn.Module):
    """Blocks of one level: convolutions, then attention.

    Args:
        dim: width.
        depth: blocks of convolutions.
        attention: blocks of attention.
        head_dim: width of an attention head.
        rate: of stochastic depth.
    """

    def __init__(self, dim: int, depth: int, attention: int, head_dim: int, rate: float) -> None:
        super().__init__()
        if attention and dim % head_dim:
            raise UserError(f"width {dim} is not divisible by heads of {head_dim}")
        self.convolutions = nn.ModuleList(Convolutions(dim) for _ in range(depth))
        self.attention = nn.ModuleList(Block(dim, dim // head_dim) for _ in range(attention))
        self.rate = rate

    def forward(self, x: Tensor, level: Level) -> Tensor:
        """``[M, dim]`` to the same."""
        for block in self.convolutions:
            x = x + self._drop(block(x, level.around), level)
        for number, block in enumerate(self.attention):
            windows = level.windows[number % 2]
            change = windows.read(block(windows.fill(x), windows.valid[:, None, None])) - x
            x = x + self._drop(change, level)
        return x

    def _drop(self, change: Tensor, level: Level) -> Tensor:
        """A sample has a block or has it not, as a whole."""
        if not self.training or self.rate == 0 or not len(level):
            return change
        kept: Tensor = drop_path(change.new_ones(int(level.sample[-1]) + 1, 1), self.rate, True)
        return change * kept[level.sample]


class Convolution(nn.Module):
    """Weights of a convolution over pairs of cells, without bias.

    Args:
        weights: how many places it looks at.
        in_dim: width.
        out_dim: width of the result.
    """

    def __init__(self, weights: int, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(weights, in_dim, out_dim))
        nn.init.trunc_normal_(self.weight, std=1 / math.sqrt(weights * in_dim))

    def forward(self, x: Tensor, pairs: Pairs) -> Tensor:
        """``[M, in_dim]`` to ``[M', out_dim]``."""
        return convolve(x, self.weight, pairs)


class Convolutions(nn.Module):
    """Norm, convolution, GELU, convolution, norm, scaled: what a block adds."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = Norm(dim), Norm(dim)
        self.first, self.second = Convolution(27, dim, dim), Convolution(27, dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), 0.1))

    def forward(self, x: Tensor, around: Pairs) -> Tensor:
        """``[M, dim]`` to the same."""
        x = self.second(F.gelu(self.first(self.norm1(x), around)), around)
        changed: Tensor = self.scale * self.norm2(x)
        return changed


class Coarsen(nn.Module):
    """To cells twice as large, by a convolution of 2 x 2 x 2 and stride 2."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm, self.convolution = Norm(in_dim), Convolution(8, in_dim, out_dim)

    def forward(self, x: Tensor, inside: Pairs) -> Tensor:
        """``[M, in_dim]`` to ``[M', out_dim]``."""
        coarse: Tensor = self.convolution(self.norm(x), inside)
        return coarse


class Refine(nn.Module):
    """Back to the cells inside, each by the weights of its part of the larger: a transposed convolution."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm, self.linear = Norm(in_dim), nn.Linear(in_dim, 8 * out_dim, bias=False)
        self.scale = nn.Parameter(torch.ones(out_dim))

    def forward(self, x: Tensor, finer: Level) -> Tensor:
        """``[M', in_dim]`` to ``[M, out_dim]`` at the cells of the finer level."""
        assert finer.parent is not None
        parts = self.linear(self.norm(x)).view(len(x) * 8, -1)
        fine: Tensor = self.scale * parts.index_select(0, finer.parent * 8 + finer.octant)
        return fine


class Norm(nn.RMSNorm):
    """Of each cell by itself, in float32."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        """``[M, dim]`` to the same."""
        normed: Tensor = super().forward(x.float())
        return normed
