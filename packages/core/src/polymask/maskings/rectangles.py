"""Blocks of rows and columns: how large they are in a step, and where they lie."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from polymask.errors import UserError
from polymask.step import Step


def block_size(area: int, aspect: float, most: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of a block of about so many sites, at least 1 and at most ``most``."""
    ideal = math.sqrt(area * aspect), math.sqrt(area / aspect)
    height, width = (max(min(round(x), n), 1) for x, n in zip(ideal, most, strict=True))
    return height, width


def require_rest(size: tuple[int, int], grid: tuple[int, ...], what: str = "block") -> None:
    """Refuse a block that is all of a grid.

    Raises:
        UserError: it is.
    """
    if math.prod(size) >= math.prod(grid):
        shape = " x ".join(map(str, grid))
        raise UserError(
            f"a {what} of {size[0]} x {size[1]} sites is all of a grid of {shape}; choose a smaller scale"
        )


def block_at(grid: tuple[int, ...], size: tuple[int, int], bits_B2: Tensor, margin: int = 0) -> Tensor:
    """Which sites lie in each sample's block, bool ``[B, rows * columns]``.

    Args:
        grid: rows and columns.
        size: height and width of the block.
        bits_B2: random integers, for the place along each axis.
        margin: last places along each axis that no block takes.
    """
    inside = []
    for axis, (n, length) in enumerate(zip(grid, size, strict=True)):
        places = max(n - length + 1 - margin, 1)
        offset = torch.arange(n, device=bits_B2.device) - (bits_B2[:, axis, None] % places)
        inside.append((offset >= 0) & (offset < length))
    return (inside[0][:, :, None] & inside[1][:, None, :]).flatten(1)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def shared_noise(step: Step, stream: int) -> tuple[float, float]:
    """Two numbers in [0, 1) that all samples of a step share."""
    first, second = step.noise(torch.zeros(1, dtype=torch.int64), 2, stream)[0].tolist()
    return first, second
