"""Uniformly random sites, singly or in cells of a grid."""

from __future__ import annotations

import math

from torch import Tensor

from polymask.errors import UserError
from polymask.mask import Mask
from polymask.maskings._choose import (
    Rounding,
    check_ratio,
    hidden_count,
    hide_last,
    hide_last_valid,
    unique_keys,
)
from polymask.protocols import Request


class Random:
    """Hide sites uniformly at random, exactly the same number in every sample.

    With ``cell`` > 1 whole square cells of the grid are hidden or kept together (SimMIM, Xie et
    al. 2021: 32 pixel cells over patches of 16 or 4).

    Args:
        ratio: share of sites (of cells) to hide, in (0, 1).
        cell: sites per cell along each axis of the grid.
        rounding: ``"nearest"``, or ``"up"`` (SimMIM).
    """

    def __init__(self, *, ratio: float = 0.75, cell: int = 1, rounding: Rounding = "nearest") -> None:
        self.ratio, self.cell, self.rounding = check_ratio(ratio), cell, rounding
        if cell < 1:
            raise UserError(f"cell must be 1 or more, got {cell}")

    def __call__(self, request: Request) -> Mask:
        if self.cell > 1:
            return self._cells(request)
        keys = unique_keys(request.step.bits(request.ids, request.sites, request.stream))
        if request.valid is not None:
            return hide_last_valid(keys, request.valid, self.ratio)
        return hide_last(keys, hidden_count(self.ratio, request.sites, self.rounding))

    def _cells(self, request: Request) -> Mask:
        grid, cell = request.grid, self.cell
        if grid is None or any(n % cell for n in grid):
            raise UserError(f"cells of {cell} tokens do not tile the token grid {grid}")
        if request.valid is not None:
            raise UserError("cell > 1 needs samples of equal size; this batch is padded")
        coarse = tuple(n // cell for n in grid)
        cells = math.prod(coarse)
        keys = unique_keys(request.step.bits(request.ids, cells, request.stream))
        mask = hide_last(keys, hidden_count(self.ratio, cells, self.rounding))
        hidden: Tensor = mask.hidden.view(-1, *coarse)
        for axis in range(len(grid)):
            hidden = hidden.repeat_interleave(cell, dim=axis + 1)
        assert mask.visible is not None
        return Mask(hidden.flatten(1), mask.visible * cell ** len(grid))
