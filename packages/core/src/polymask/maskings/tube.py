"""Masks that are the same along the first axis of a grid: at all times of a video, in all bands."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, get_args

import torch

from polymask.errors import UserError
from polymask.mask import Mask
from polymask.maskings.choose import check_range
from polymask.maskings.rectangles import block_at, block_size, require_rest, shared_noise
from polymask.protocols import Masking, Request
from polymask.types import Count

Counts = Literal["padded", "truncated"]


class Tube:
    """Another masking over the last axes of a grid, its mask repeated along the first.

    Tong et al. 2022 (VideoMAE, arXiv 2203.12602) over core/random of ratio 0.9: what is hidden of a video is
    hidden at all times, so that no patch is copied from another frame. The other masking sees a grid of one
    axis less, and of scores their mean along the first axis.

    Args:
        masking: what to hide of each slice along the first axis.
    """

    def __init__(self, *, masking: Masking) -> None:
        self.masking = masking
        if hasattr(masking, "views"):
            self.views: int = masking.views

    def __call__(self, request: Request) -> Mask:
        grid = _whole_grid("core/tube", request)
        length, sites = grid[0], request.sites // grid[0]
        score, position = request.score, request.position
        inner = self.masking(
            dataclasses.replace(
                request,
                sites=sites,
                grid=grid[1:],
                score=None if score is None else score.view(-1, length, sites).mean(1),
                # slices lie alike, so the first one's places say all
                position=None if position is None else position[:, :sites, 1:],
            )
        )
        hidden = inner.hidden.flatten(1).repeat(1, length)
        return Mask(hidden, None if inner.visible is None else inner.visible * length)


class TubeBlocks:
    """Blocks of rows and columns, hidden at all times; several families of them, each a mask of its own.

    Bardes et al. 2024 (V-JEPA, arXiv 2404.08471): a mask of the first family hides eight blocks of 15 % of
    the rows and columns, one of the second two blocks of 70 %. A request for stream k gets the mask of family
    k; streams beyond are the same of further draws. Blocks overlap, and reach through all axes before the
    last two, so that on an image they are blocks of it.

    As published, all samples of a step share the size of a family's blocks, and places are each sample's own.
    Where a block would hide what is still visible, it and those after it are left out (published: all are
    drawn again). So samples differ in how much is hidden. Sizes change with the step, so torch.compile breaks
    its graph where they are drawn.

    The published code then cuts the visible sites of all samples of a batch to the fewest that one of them
    has, and so the hidden ones, dropping the last in order: those of the last times. ``counts="truncated"``
    reproduces that: what is cut is neither visible nor hidden. A mask then depends on the rest of the batch,
    and with 8 x 14 x 14 sites and 24 samples about 23 % are left visible of 37 % in the first family, 6 % of
    19 % in the second, next to none of them at the last time.

    Args:
        blocks: number of blocks, by family.
        scale: one block as a share of rows times columns, by family.
        aspect: smallest and largest height over width of a block.
        counts: ``"padded"``, rows of several lengths; or ``"truncated"`` to one, as published.
    """

    def __init__(
        self,
        *,
        blocks: tuple[Count, ...] = (8, 2),
        scale: tuple[float, ...] = (0.15, 0.7),
        aspect: tuple[float, float] = (0.75, 1.5),
        counts: Counts = "padded",
    ) -> None:
        if not blocks or len(blocks) != len(scale) or min(blocks) < 1:
            raise UserError(
                f"blocks and scale need a number for each family, blocks 1 or more, got {blocks} and {scale}"
            )
        if not all(0 < share < 1 for share in scale):
            raise UserError(f"scale must be shares of rows times columns, between 0 and 1, got {scale}")
        if counts not in get_args(Counts):
            raise UserError(f"counts={counts!r}: choose 'padded' or 'truncated'")
        self.blocks, self.scale, self.counts = tuple(blocks), tuple(scale), counts
        check_range("aspect", aspect, "ratios of lengths")
        self.aspect = aspect
        self.views = self.families = len(self.blocks)

    def __call__(self, request: Request) -> Mask:
        grid = _whole_grid("core/tube-blocks", request)
        family = request.stream % self.families
        plane, count = grid[-2:], self.blocks[family]
        first, _ = shared_noise(request.step, -1 - request.stream)
        aspect = self.aspect[0] + first * (self.aspect[1] - self.aspect[0])
        size = block_size(int(math.prod(plane) * self.scale[family]), aspect, plane)
        require_rest(size, plane)
        bits = request.step.bits(request.ids, 2 * count, request.stream).view(-1, count, 2)
        laid = torch.stack([block_at(plane, size, bits[:, i]) for i in range(count)], dim=1)
        # covered[:, k]: by blocks 0 to k; the last of these that leaves something counts
        covered = laid.cumsum(dim=1) > 0
        last = (~covered).any(dim=2).sum(dim=1) - 1
        hidden = covered[torch.arange(len(covered), device=covered.device), last]
        mask = Mask(hidden.repeat(1, request.sites // hidden.shape[1]))
        return mask if self.counts == "padded" else truncated(mask)


def truncated(mask: Mask) -> Mask:
    """The first visible sites of each row, and its first hidden ones, as many as the row with fewest has."""
    seen, hidden = ~mask.hidden, mask.hidden
    kept = [x & (x.cumsum(dim=1) <= x.sum(dim=1).min()) for x in (seen, hidden)]
    return Mask(kept[1], valid=kept[0] | kept[1])


def _whole_grid(name: str, request: Request) -> tuple[int, ...]:
    grid = request.grid
    if grid is None or len(grid) < 2 or request.valid is not None:
        raise UserError(
            f"{name} needs tokens that form a grid without padding, of two axes or more; use core/random"
        )
    return grid
