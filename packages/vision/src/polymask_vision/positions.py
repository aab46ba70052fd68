"""Where one patch lies from another."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask.nn.positions import coordinates


class RelativeBias(nn.Module):
    """What attention adds for where one token lies from another, by head (Bao et al. 2021, BEiT).

    Args:
        grid: lengths of the axes of the token grid.
        heads: attention heads.
        prefix: 1 if a class token leads the sequence: it has one bias towards all others, all others
            have one towards it, and it has one towards itself.
    """

    def __init__(self, grid: tuple[int, ...], heads: int, prefix: int) -> None:
        super().__init__()
        self.grid, self.prefix = grid, prefix
        spans = tuple(2 * n - 1 for n in grid)
        pairs = math.prod(spans)
        at = coordinates(grid)
        offset = at[:, None] - at + at[-1]
        index = F.pad(grid_index(offset, spans), (prefix, 0, prefix, 0))
        if prefix:
            index[0], index[:, 0], index[0, 0] = pairs, pairs + 1, pairs + 2
        self.register_buffer("index", index, persistent=False)
        self.index: Tensor
        self.bias = nn.Parameter(nn.init.trunc_normal_(torch.empty(pairs + 3 * prefix, heads), std=0.02))

    def forward(self, position: Tensor) -> Tensor:
        """Grid coordinates ``[B, K, P]`` to ``[B, heads, prefix + K, prefix + K]``, 1 for B if all agree."""
        if position.stride(0) == 0:
            position = position[:1]
        site = F.pad(grid_index(position, self.grid) + self.prefix, (self.prefix, 0))
        return self.bias[self.index[site[:, :, None], site[:, None, :]]].permute(0, 3, 1, 2)


def grid_index(position: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Row-major site numbers, int64 ``[B, K]``, of grid coordinates ``[B, K, P]``."""
    # whole numbers first: in bfloat16 a coordinate is exact and the number of its site is not
    place = position.long()
    index = place[..., 0]
    for axis in range(1, len(grid)):
        index = index * grid[axis] + place[..., axis]
    return index
