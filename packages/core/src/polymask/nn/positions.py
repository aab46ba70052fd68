"""Where a token lies, as a vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polymask.errors import UserError


def sincos(position: Tensor, dim: int) -> Tensor:
    """Fixed sine-cosine embedding of coordinates (Vaswani et al. 2017; several axes as in MAE).

    The width is shared equally by the axes, the last axis first (MAE: columns, then rows), each
    share holding sines, then cosines, of wavelengths 2 pi to 20,000 pi.

    Args:
        position: ``[..., P]`` coordinates in token units, any real numbers.
        dim: width of the result; must be a multiple of 2 P.

    Returns:
        float32 ``[..., dim]``.

    Raises:
        UserError: the width cannot be shared.
    """
    check_width(dim, position.shape[-1])
    share = dim // (2 * position.shape[-1])
    # float64 until the end: angles of far positions lose digits in float32
    steps = torch.arange(share, dtype=torch.float64, device=position.device)
    omega = 10000.0 ** (-steps / share)
    angle = position.double().flip(-1)[..., None] * omega
    return torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(-2).float()


def check_width(dim: int, axes: int) -> None:
    """Refuse a width that sines and cosines of so many axes cannot share equally.

    Raises:
        UserError: it is not a multiple of 2 per axis.
    """
    if dim % (2 * axes):
        raise UserError(
            f"sine-cosine positions of {axes} axes need a width divisible by {2 * axes}, got {dim}: "
            "choose another width, or learned positions"
        )


def coordinates(grid: tuple[int, ...]) -> Tensor:
    """All sites of a grid in row-major order, float32 ``[N, P]``."""
    axes = [torch.arange(n, dtype=torch.float32) for n in grid]
    return torch.cartesian_prod(*axes).view(-1, len(grid))


class SinCos(nn.Module):
    """Fixed sine-cosine positions: a table where there is a grid, computed where there is none.

    Args:
        dim: width.
        grid: lengths of the axes, or None for free coordinates.
    """

    def __init__(self, dim: int, grid: tuple[int, ...] | None) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer(
            "table", None if grid is None else sincos(coordinates(grid), dim), persistent=False
        )
        self.table: Tensor | None

    def forward(self, position: Tensor) -> Tensor:
        """``[B, N, P]`` coordinates to what broadcasts to ``[B, N, dim]``, for all N sites of a sample."""
        return sincos(position, self.dim) if self.table is None else self.table[None]
