"""Rectangular blocks of a grid."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Literal

import torch
from torch import Tensor

from polymask.errors import UserError
from polymask.maskings.choose import ABOVE, check_range, check_ratio, hidden_count
from polymask.maskings.ranking import Ranking
from polymask.protocols import Request

Sizes = tuple[tuple[int, ...], ...]

_OUTSIDE = 1 << 28


class Block(Ranking):
    """Hide blocks of neighbouring sites on a grid of one or more axes, exactly the same number.

    Blocks of random size and place are laid one after another until the count is reached, as in
    BEiT (Bao et al. 2021, arXiv 2106.08254); the last one is trimmed to what is still missing.
    Blocks that leave the grid on one side enter on the other, so every site is exactly equally
    likely to be hidden: without that, blocks prefer the middle. (Among padded samples the padding
    is left out of the count, and sites beside it differ a little.) ``placement="inside"`` has blocks that
    stay within the grid, as BEiT has them: at half of a 14 x 14 grid it hides the middle in 0.85 of masks, a
    corner in 0.07.

    With ``inverse`` the blocks are what stays visible, as in data2vec 2.0 (Baevski et al. 2022,
    arXiv 2212.07525: ratio 0.8 and side 3).

    Args:
        ratio: share of sites to hide, in (0, 1).
        scale: smallest and largest block, as shares of the grid; areas are drawn evenly between.
        aspect: smallest and largest length of an axis of a block over its last axis, drawn evenly
            on a logarithmic scale. An axis too short for its part leaves it to the others.
        side: blocks of this many sites along every axis, instead of ``scale`` and ``aspect``.
        placement: ``"wrapped"``, every site alike, or ``"inside"``, whole blocks within the grid.
        inverse: lay blocks to be kept, hide all else.
    """

    def __init__(
        self,
        *,
        ratio: float = 0.4,
        scale: tuple[float, float] = (0.08, 0.4),
        aspect: tuple[float, float] = (0.3, 3.3),
        side: int | None = None,
        placement: Literal["wrapped", "inside"] = "wrapped",
        inverse: bool = False,
    ) -> None:
        check_range("scale", scale, "shares of the grid", most=1)
        check_range("aspect", aspect, "ratios of lengths")
        if side is not None and side < 1:
            raise UserError(f"side must be 1 or more, got {side}")
        self.ratio, self.inverse, self.side = check_ratio(ratio), inverse, side
        self.scale, self.aspect = (scale[0], scale[1]), (aspect[0], aspect[1])
        self.placement = placement

    def rank(self, request: Request) -> Tensor:
        """Sites by the first block that covers them, then by their place in it."""
        grid = request.grid
        if grid is None:
            raise UserError(
                "core/block needs tokens on a grid, and these have none; use core/random or core/span"
            )
        hidden = hidden_count(self.ratio, request.sites) / request.sites
        sizes, area = sizes_for(grid, self.scale, self.aspect, self.side)
        blocks = enough(area, 1 - hidden if self.inverse else hidden)
        bits = request.step.bits(request.ids, blocks * (1 + len(grid)), request.stream)
        bits = (bits & (ABOVE - 1)).view(-1, blocks, 1 + len(grid))
        table = torch.tensor(sizes, dtype=torch.int32).to(bits.device, non_blocking=True)
        lengths = table[bits[..., 0] % len(sizes)]

        first = torch.arange(blocks, device=bits.device, dtype=torch.int32) * request.sites
        order = first.view(1, -1, *[1] * len(grid))
        for axis, n in enumerate(grid):
            starts = n if self.placement == "wrapped" else n + 1 - lengths[..., axis].long()
            start = (bits[..., 1 + axis] % starts).int()
            place = (torch.arange(n, device=bits.device, dtype=torch.int32) - start[..., None]) % n
            inside = place < lengths[..., axis, None]
            # The last block is the whole grid: whatever the others leave, the count is reached.
            inside[:, -1] = True
            cost = torch.where(inside, place * math.prod(grid[axis + 1 :]), _OUTSIDE)
            order = order + cost.view(*cost.shape[:2], *[n if a == axis else 1 for a in range(len(grid))])
        order = order.amin(dim=1).flatten(1)
        return order if self.inverse else -order


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def sizes_for(
    grid: tuple[int, ...], scale: tuple[float, float], aspect: tuple[float, float], side: int | None
) -> tuple[Sizes, float]:
    """Block sizes to draw from, and their mean area as a share of the grid."""
    if side is None:
        sizes = block_sizes(grid, scale, aspect)
    elif side <= min(grid):
        sizes = ((side,) * len(grid),)
    else:
        shape = " x ".join(map(str, grid))
        raise UserError(
            f"blocks of {side} sites do not fit into a grid of {shape}: give a smaller --masking.side, or "
            "smaller patches"
        )
    return sizes, sum(map(math.prod, sizes)) / len(sizes) / math.prod(grid)


def enough(area: float, share: float) -> int:
    """How many blocks of a mean area almost surely cover a share of the grid, and one more."""
    # In steps, so that a share that changes over the run changes the shapes in a graph but rarely.
    left = 0.75
    while 1 - left < share:
        left *= 0.75
    mean = 1.0 if area >= 1 else math.log(left) / math.log1p(-area)
    return math.ceil(mean + 4 * math.sqrt(mean)) + 1


@functools.cache
def block_sizes(grid: tuple[int, ...], scale: tuple[float, float], aspect: tuple[float, float]) -> Sizes:
    """Block sizes that stand for all areas in ``scale`` and all shapes in ``aspect``.

    A fixed list, drawn from by integers, because a size computed from random floats could round
    differently on another device.

    Args:
        grid: lengths of the axes.
        scale: smallest and largest area as shares of the grid.
        aspect: smallest and largest length of an axis over the last one.

    Returns:
        64 sizes, or 2 per axis for six axes or more, evenly spaced in area and in log aspect.
    """
    levels = 1 << max(6 // len(grid), 1)
    middles = [(i + 0.5) / levels for i in range(levels)]
    areas = [math.prod(grid) * (scale[0] + (scale[1] - scale[0]) * u) for u in middles]
    shapes = [aspect[0] * (aspect[1] / aspect[0]) ** u for u in middles]
    return tuple(
        _fit(area, (*shape, 1.0), grid)
        for area in areas
        for shape in itertools.product(shapes, repeat=len(grid) - 1)
    )


def _fit(area: float, shape: tuple[float, ...], grid: tuple[int, ...]) -> tuple[int, ...]:
    """Whole lengths of about the given area and shape, none longer than the grid."""
    lengths = list(grid)
    left = sorted(range(len(grid)), key=lambda axis: grid[axis] / shape[axis])
    while left:
        axis = left[0]
        ideal = shape[axis] * (area / math.prod(shape[a] for a in left)) ** (1 / len(left))
        lengths[axis] = min(max(round(ideal), 1), grid[axis])
        area /= lengths[axis]
        left = left[1:]
    return tuple(lengths)
