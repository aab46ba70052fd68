"""Where a token lies, as a vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def sincos(position: Tensor, dim: int) -> Tensor:
    """Fixed sine-cosine embedding of coordinates (Vaswani et al. 2017; several axes as in MAE).

    The width is shared equally by the axes, the last axis first (MAE: columns, then rows), each
    share holding sines, then cosines, of wavelengths 2 pi to 20,000 pi.

    Args:
        position: ``[..., P]`` coordinates in token units, any real numbers.
        dim: width of the result; must be a multiple of 2 P.

    Returns:
        float32 ``[..., dim]``.
    """
    axes = position.shape[-1]
    if dim % (2 * axes):
        raise ValueError(f"a sine-cosine embedding of {axes} axes needs a width divisible by {2 * axes}, got {dim}")
    share = dim // (2 * axes)
    # float64 until the end: angles of far positions lose digits in float32
    steps = torch.arange(share, dtype=torch.float64, device=position.device)
    omega = 10000.0 ** (-steps / share)
    angle = position.double().flip(-1)[..., None] * omega
    return torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(-2).float()


class SinCos(nn.Module):
    """Fixed sine-cosine positions: a table where there is a grid, computed where there is none.

    Args:
        dim: width.
        grid: lengths of the axes, or None for free coordinates.
    """

    def __init__(self, dim: int, grid: tuple[int, ...] | None) -> None:
        super().__init__()
        self.dim, self.grid = dim, grid
        table = None
        if grid is not None:
            table = sincos(torch.cartesian_prod(*(torch.arange(float(n)) for n in grid)).view(-1, len(grid)), dim)
        self.register_buffer("table", table, persistent=False)
        self.table: Tensor | None

    def forward(self, position: Tensor) -> Tensor:
        """``[B, N, P]`` coordinates to what broadcasts to ``[B, N, dim]``, for all N sites of a sample."""
        return sincos(position, self.dim) if self.table is None else self.table[None]


def grid_index(position: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Row-major site numbers, int64 ``[B, K]``, of grid coordinates ``[B, K, P]``."""
    index = position[..., 0]
    for axis in range(1, len(grid)):
        index = index * grid[axis] + position[..., axis]
    return index.long()
