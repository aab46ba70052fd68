"""Hides cells of feature maps and rebuilds them from the rest (masked feature modelling, arXiv 2509.13801).

Shapes: B images, N cells, D width of the Rebuilder, C width of a map, h rows and w columns of a map.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.norm import LayerNorm2d
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from polymask import Mask, UserError
from polymask.nn.blocks import initialise
from polymask.nn.positions import coordinates, sincos


class Rebuilder(nn.Module):
    """A small Transformer on a grid of cells, each of which covers a square of every feature map.

    The last map is embedded and brought to the grid, each cell from its own middle. Hidden cells get a mask
    token there, and all go through the blocks. From each cell a few transposed convolutions make the places
    of every map that it covers; they replace what the maps hold in hidden cells, visible ones stay as they
    are. What replaces them is normed over channels, what stays is not, as in the release.

    Args:
        channels: width of each map, the finest first.
        sizes: rows and columns of each map: the grid times 1, 2, 4, ...
        grid: rows and columns of cells (paper: 16 and 16).
        dim: width (paper: 512).
        depth: blocks (paper: 2).
        heads: attention heads (paper: 16).

    Raises:
        UserError: a map is not as large as the grid times a power of two, or heads do not divide the width.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        sizes: Sequence[tuple[int, int]],
        grid: tuple[int, int] = (16, 16),
        dim: int = 512,
        depth: int = 2,
        heads: int = 16,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise UserError(f"a Rebuilder of width {dim} is not divisible by {heads} heads")
        times = [times_of(size, grid) for size in sizes]
        self.grid = (grid[0], grid[1])
        self.embed = nn.Linear(channels[-1], dim)
        self.mask_token = nn.Parameter(torch.empty(dim))
        norm: Any = functools.partial(nn.LayerNorm, eps=1e-5)
        self.blocks = nn.Sequential(
            *(Block(dim, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(dim)
        self.project = nn.ModuleList(
            _projection(dim, width, each) for width, each in zip(channels, times, strict=True)
        )
        self.register_buffer("position", sincos(coordinates(grid), dim), persistent=False)
        self.position: Tensor
        initialise(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, maps: Sequence[Tensor], mask: Mask) -> list[Tensor]:
        """Maps ``[B, C, h, w]`` with hidden cells rebuilt.

        Args:
            maps: as the encoder gives them.
            mask: over the cells, ``[B, N]``.
        """
        return patch(maps, self.rebuild(maps, mask), mask, self.grid)

    def rebuild(self, maps: Sequence[Tensor], mask: Mask) -> list[Tensor]:
        """What stands for each map, ``[B, C, h, w]``, made of visible cells alone."""
        # a linear map and interpolation change places, and the grid has fewer of them than the map
        last = maps[-1]
        if last.shape[2:] != self.grid:
            last = F.interpolate(last, self.grid, mode="bilinear", align_corners=False)
        z_BND = self.embed(last.flatten(2).transpose(1, 2))
        z_BND = mask.fill(z_BND, self.mask_token) + self.position.to(z_BND.dtype)
        h_BND: Tensor = self.norm(self.blocks(z_BND))
        h_BDhw = h_BND.transpose(1, 2).reshape(len(h_BND), -1, *self.grid)
        return [project(h_BDhw) for project in self.project]


def patch(maps: Sequence[Tensor], other: Sequence[Tensor], mask: Mask, grid: tuple[int, int]) -> list[Tensor]:
    """Maps with others in their hidden cells, the same cells on every map.

    Args:
        maps: ``[B, C, h, w]`` each.
        other: of the same shapes.
        mask: over the cells, ``[B, N]``.
        grid: rows and columns of cells.
    """
    return [over(own, mask, grid).fill(own, made) for own, made in zip(maps, other, strict=True)]


def over(map_BChw: Tensor, mask: Mask, grid: tuple[int, int]) -> Mask:
    """A mask of cells as one over the numbers of a map, ``[B, C, h, w]``."""
    times = map_BChw.shape[2] // grid[0]
    hidden = mask.hidden.view(-1, 1, *grid)
    return Mask(hidden.repeat_interleave(times, 2).repeat_interleave(times, 3).expand_as(map_BChw))


def times_of(size: tuple[int, int], grid: tuple[int, int]) -> int:
    """How many times as large as the grid a map is, a power of two.

    Raises:
        UserError: it is not.
    """
    times = size[0] // grid[0]
    if size != (grid[0] * times, grid[1] * times) or times & (times - 1):
        raise UserError(
            f"{grid[0]} x {grid[1]} cells cannot hide the same places of a feature map of {size[0]} x "
            f"{size[1]}, which must be as large, or 2, 4, 8 times: give another --tokenizer.patch_size, the "
            "side of a cell, another --data.size or --levels, or a finer map by --arguments.output_stride"
        )
    return times


def _projection(dim: int, channels: int, times: int) -> nn.Module:
    """From cells to a map so many times as large: each transposed convolution doubles the size."""
    doublings = times.bit_length() - 1
    widths = [dim, dim // 2, *[dim // 4] * (doublings - 1)][: doublings + 1]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        if layers:
            layers += [LayerNorm2d(before), nn.GELU()]
        layers.append(nn.ConvTranspose2d(before, after, 4, stride=2, padding=1))
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], channels, 1), LayerNorm2d(channels))
