"""Uniformly random sites, singly or in cells of a grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from polymask.errors import UserError
from polymask.maskings.choose import Rounding, cells_of, check_ratio, site_bits, unique_keys
from polymask.maskings.ranking import Ranking
from polymask.protocols import Request


class Random(Ranking):
    """Hide sites uniformly at random, exactly the same number in every sample.

    With ``cell`` > 1 whole square cells of the grid are hidden or kept together (SimMIM, Xie et
    al. 2021: 32 pixel cells over patches of 16 or 4).

    Args:
        ratio: share of sites (of cells) to hide, in (0, 1).
        cell: sites per cell along each axis of the grid.
        rounding: ``"nearest"``, or ``"up"`` (SimMIM).
    """

    def __init__(self, *, ratio: float = 0.75, cell: int = 1, rounding: Rounding = "nearest") -> None:
        if cell < 1:
            raise UserError(f"cell must be 1 or more, got {cell}")
        if rounding not in ("nearest", "up"):
            raise UserError(f"rounding={rounding!r}: choose 'nearest' or 'up'")
        self.ratio, self.cell, self.rounding = check_ratio(ratio), cell, rounding

    def rank(self, request: Request) -> Tensor:
        if self.cell == 1:
            return unique_keys(request.step.bits(request.ids, request.sites, request.stream))
        if request.valid is not None:
            raise UserError("cell > 1 needs samples of equal size; this batch is padded")
        coarse = cells_of(request.grid, self.cell)
        room = site_bits(self.unit(request))
        keys = unique_keys(request.step.bits(request.ids, math.prod(coarse), request.stream), room=room)
        keys = keys.view(-1, *coarse)
        for axis in range(1, keys.dim()):
            keys = keys.repeat_interleave(self.cell, dim=axis)
        return keys.flatten(1) | self._place(request)

    def unit(self, request: Request) -> int:
        return 1 if self.cell == 1 else self.cell ** len(cells_of(request.grid, self.cell))

    def _place(self, request: Request) -> Tensor:
        """Number of each site within its cell, int64 ``[sites]``."""
        assert request.grid is not None
        place = torch.zeros((), dtype=torch.int64, device=request.ids.device)
        for n in request.grid:
            place = place[..., None] * self.cell + torch.arange(n, device=place.device) % self.cell
        return place.flatten()
