"""Target blocks, and a context without them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from polymask.errors import UserError
from polymask.mask import Mask
from polymask.maskings.choose import check_range, share
from polymask.maskings.rectangles import block_at, block_size, require_rest, shared_noise
from polymask.protocols import Request
from polymask.step import Step
from polymask.types import Count, Share


class MultiBlock:
    """One large context block and several smaller target blocks, which the context leaves out.

    Assran et al. 2023 (I-JEPA, arXiv 2301.08243). A request for stream 0 gets the mask whose visible sites
    are the context; streams 1 to ``targets`` get masks whose hidden sites are one target block each. Target
    blocks may overlap. Streams beyond are the same of further draws.

    As published, all samples of a step share the sizes of their blocks, and one number draws area and shape
    of the targets; places are each sample's own. So target masks of a step hide equally many sites, and
    contexts differ between samples. Where the targets leave less than ``least`` of the context block, the
    context drops only the first of them, as many as leave enough.

    The released code never places a block in the last row or column, and cuts all contexts of a batch to the
    shortest by dropping their last rows; ``placement="released"`` reproduces the first. Sizes change with the
    step, so torch.compile breaks its graph where they are drawn.

    Args:
        targets: number of target blocks.
        scale: smallest and largest target block, as shares of the grid.
        aspect: smallest and largest height over width of a target block.
        context: smallest and largest context block, as shares of the grid.
        least: minimum share of sites in the context (released: 10 of 196 or 256).
        placement: ``"anywhere"`` on the grid, or as ``"released"``.
    """

    def __init__(
        self,
        *,
        targets: Count = 4,
        scale: tuple[float, float] = (0.15, 0.2),
        aspect: tuple[float, float] = (0.75, 1.5),
        context: tuple[float, float] = (0.85, 1.0),
        least: Share = 0.05,
        placement: Literal["anywhere", "released"] = "anywhere",
    ) -> None:
        if targets < 1:
            raise UserError(f"targets must be 1 or more, got {targets}")
        check_range("scale", scale, "shares of the grid", most=1)
        check_range("context", context, "shares of the grid", most=1)
        check_range("aspect", aspect, "ratios of lengths")
        if not 0 <= least < context[0]:
            raise UserError(f"least must be a share below the smallest context, {context[0]}, got {least}")
        if placement not in ("anywhere", "released"):
            raise UserError(f"placement={placement!r}: choose 'anywhere' or 'released'")
        self.targets, self.least, self.placement = targets, least, placement
        self.scale, self.aspect, self.context = scale, aspect, context

    def __call__(self, request: Request) -> Mask:
        grid = request.grid
        if grid is None or len(grid) != 2 or request.valid is not None:
            raise UserError(
                "core/multi-block needs tokens that form a grid without padding, of rows and columns; "
                "use core/random or core/span"
            )
        draw, stream = divmod(request.stream, 1 + self.targets)
        margin = int(self.placement == "released")
        target, context = self._sizes(grid, request.step, draw)
        require_rest(target, grid, "target block")
        sizes = (context, *(target,) * self.targets)
        bits = request.step.bits(request.ids, 2 * len(sizes), draw).view(-1, len(sizes), 2)
        if stream:
            hidden = block_at(grid, target, bits[:, stream], margin)
            return Mask(hidden, request.sites - math.prod(target))
        blocks = [block_at(grid, size, bits[:, i], margin) for i, size in enumerate(sizes)]
        return Mask(~self._context(blocks))

    def _sizes(self, grid: tuple[int, int], step: Step, draw: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Height and width of a step's target blocks, and of its context block."""
        first, second = shared_noise(step, -1 - draw)
        sites = math.prod(grid)

        def size(scale: tuple[float, float], u: float, aspect: float) -> tuple[int, int]:
            area = int(sites * (scale[0] + u * (scale[1] - scale[0])))
            # the released code also keeps blocks below the length of the grid
            return block_size(area, aspect, tuple(n - (self.placement == "released") for n in grid))

        aspect = self.aspect[0] + first * (self.aspect[1] - self.aspect[0])
        return size(self.scale, first, aspect), size(self.context, second, 1.0)

    def _context(self, blocks: Sequence[Tensor]) -> Tensor:
        """Of the context block and those of targets, the first without as many of these as leave enough."""
        context, *targets = blocks
        # left[:, t]: without the first t targets
        left = torch.stack([*accumulate(targets, lambda rest, block: rest & ~block, initial=context)], dim=1)
        enough = left.sum(dim=2) >= max(share(self.least, context.shape[1]), 1)
        enough[:, 0] = True
        order = torch.arange(1 + self.targets, device=context.device)
        most = torch.where(enough, order, 0).amax(dim=1)
        return left[torch.arange(len(left), device=left.device), most]
