"""Stripes."""

from __future__ import annotations

from polymask import Mask, Request, UserError


class Stripes:
    """Hide whole lines of a grid, the same number in every sample.

    Args:
        ratio: share of the lines to hide, in (0, 1).
        axis: the axis of the grid that the lines cross: 0 hides rows, 1 hides columns.
    """

    def __init__(self, *, ratio: float = 0.5, axis: int = 0) -> None:
        self.ratio, self.axis = ratio, axis

    def __call__(self, request: Request) -> Mask:
        grid = request.grid
        if grid is None or self.axis >= len(grid) or request.valid is not None:
            raise UserError(f"stripes across axis {self.axis} need a whole grid that has it, got {grid}")
        lines = grid[self.axis]
        count = round(self.ratio * lines)
        if not 0 < count < lines:
            raise UserError(f"ratio {self.ratio} hides {count} of {lines} lines; choose another ratio")
        rank = request.step.bits(request.ids, lines, request.stream).argsort(1).argsort(1)
        across = [lines if axis == self.axis else 1 for axis in range(len(grid))]
        hidden = (rank < count).view(-1, *across).expand(-1, *grid)
        return Mask(hidden.flatten(1), request.sites - request.sites // lines * count)
