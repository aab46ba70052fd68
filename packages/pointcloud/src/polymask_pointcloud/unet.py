"""A U-Net over occupied voxels, of convolutions and, at its coarsest levels, attention.

The backbone of Masked Scene Modeling (Hermosilla et al. 2025, arXiv 2504.06719), in plain torch. Here are
layer norms' relatives without a batch (RMS norms), by which hidden voxels cannot reach visible ones. Blocks
of attention are plain ones (the published: gated feed-forward layers, no biases), and windows follow two
fixed curves by turns (the published: four, in random order).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import UserError
from polymask.types import Count, Fact, Share, Whole
from polymask_pointcloud.encoders import PointNet
from polymask_pointcloud.operations.sparse import (
    MIDDLE,
    levels_of,
    mean_at,
    trilinear,
)
from polymask_pointcloud.stages import Cells, Coarsen, Norm, Refine, Stage
from polymask_pointcloud.tokenizers import UNIT


class UNet(nn.Module):
    """Convolutions over voxels of growing size, and back; no voxel but those it is given exists for it.

    An encoder of any tokens with positions, best of ``pointcloud/voxels``, whose cells it takes. Tokens of
    one cell are averaged. The output is that of all levels of the decoder beside each other, each
    normalised (the published features are not) and interpolated at the token: coarse levels tell what a
    thing is, fine ones where it ends.

    :meth:`cells`, :meth:`down` and :meth:`up` are for systems that run the halves on different cells.

    Args:
        in_dim: numbers per token, from the tokenizer.
        channels: numbers per point, from the tokenizer.
        axes: numbers per position, from the tokenizer.
        cell_low: lower corner of the box that the tokenizer's cells fill; 0 for other tokens.
        cell_size: of the finest cell; for other tokens one token unit.
        down_dims: widths of the encoder, finest level first; a level is twice as coarse as the last.
        up_dims: widths of the decoder, finest level first.
        depth: blocks of convolutions at each level, both ways.
        attention: so many of the coarsest levels have blocks of attention too.
        attention_depth: how many, both ways.
        head_dim: width of an attention head.
        drop_path: stochastic depth rate of every block, per sample.
    """

    prefix = 0
    downsample = 1
    needs_grid = False

    def __init__(
        self,
        *,
        in_dim: Fact[Count] = 48,
        channels: Fact[Count] = 3,
        axes: Fact[Count] = 3,
        cell_low: Fact[Sequence[float] | None] = None,
        cell_size: Fact[Sequence[float] | None] = None,
        down_dims: Sequence[Count] = (32, 64, 128, 256, 384),
        up_dims: Sequence[Count] = (64, 96, 128, 256, 384),
        depth: Whole = 2,
        attention: Whole = 2,
        attention_depth: Whole = 2,
        head_dim: Count = 8,
        drop_path: Share = 0.0,
    ) -> None:
        super().__init__()
        if len(down_dims) != len(up_dims) or not down_dims:
            raise UserError(
                f"down_dims={tuple(down_dims)}, up_dims={tuple(up_dims)}: give as many widths both ways"
            )
        if not 0 <= attention <= len(down_dims):
            raise UserError(f"attention at {attention} of {len(down_dims)} levels")
        if in_dim % channels:
            raise UserError(f"tokens of {in_dim} numbers are not whole points of {channels}")
        if not math.isfinite(drop_path) or not 0 <= drop_path < 1:
            raise UserError(f"drop_path must lie in [0, 1), got {drop_path}")
        self.axes, self.channels = axes, channels
        size = (UNIT,) * 3 if cell_size is None else tuple(float(s) for s in cell_size)
        low = (0.0,) * 3 if cell_low is None else tuple(float(x) for x in cell_low)
        # plain numbers: a buffer would change its type with the module's
        self.low, self.size = low[:axes], size[:axes]
        self.down_dims, self.up_dims = tuple(down_dims), tuple(up_dims)
        self.dim, self.out_dim = self.down_dims[0], sum(self.up_dims)

        def stage(level: int, dim: int) -> Stage:
            blocks = attention_depth if level >= len(self.down_dims) - attention else 0
            return Stage(dim, depth, blocks, head_dim, drop_path)

        self.points = PointNet(channels, self.dim)
        self.down_stages = nn.ModuleList(stage(*level) for level in enumerate(self.down_dims))
        self.up_stages = nn.ModuleList(stage(*level) for level in enumerate(self.up_dims))
        pairs = zip(self.down_dims, self.down_dims[1:], strict=False)
        self.coarsen = nn.ModuleList(Coarsen(fine, coarse) for fine, coarse in pairs)
        pairs = zip(self.up_dims, self.up_dims[1:], strict=False)
        self.refine = nn.ModuleList(Refine(coarse, fine) for fine, coarse in pairs)
        self.skip = nn.ModuleList(
            nn.Sequential(Norm(a), nn.Linear(a, b)) for a, b in zip(self.down_dims, self.up_dims, strict=True)
        )

    @property
    def provides(self) -> Mapping[str, Any]:
        """``stride``: finest cells in a coarsest one, along each axis."""
        return {"stride": 1 << (len(self.down_dims) - 1)}

    def embed(self, values: Tensor) -> Tensor:
        """``[B, K, in_dim] -> [B, K, dim]``, places of points in units of the cell."""
        points = values.reshape(*values.shape[:-1], -1, self.channels)
        scale = points.new_tensor([*self.size, *self.size[:1] * (3 - self.axes)])
        points = torch.cat([points[..., :3] / scale, points[..., 3:]], dim=-1)
        embedded: Tensor = self.points(points.flatten(-2))
        return embedded

    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        """``[B, K, dim]`` at ``[B, K, axes]`` to ``[B, K, out_dim]``, zeros at padding."""
        cells = self.cells(position, valid)
        features = self.up(self.down(x, cells), cells, cells)
        sample = cells.levels[0].sample[cells.token]
        sampled = [
            trilinear(level, F.layer_norm(f.float(), f.shape[1:]), sample, cells.place / 2**number)
            for number, (level, f) in enumerate(zip(cells.levels, features, strict=True))
        ]
        flat = torch.cat(sampled, dim=1).to(features[0].dtype)
        out = flat.new_zeros(x.shape[0] * x.shape[1], self.out_dim).index_copy(0, cells.real, flat)
        return out.view(*x.shape[:2], -1)

    def locate(self, place: Tensor) -> Tensor:
        """Places ``[..., 3]``, in units of the cloud, in finest cells, float64 ``[..., 3]``.

        Tokens of two axes lie in cells one high.
        """
        low, size = (torch.tensor(v, dtype=torch.float64, device=place.device) for v in (self.low, self.size))
        cells = (place[..., : self.axes].double() - low) / size
        return F.pad(cells, (0, 3 - self.axes), value=0.5) + MIDDLE

    def cells(self, position: Tensor, valid: Tensor | None = None) -> Cells:
        """The cells that tokens at ``[B, K, axes]`` lie in."""
        b, k = position.shape[:2]
        device = position.device
        real = torch.arange(b * k, device=device) if valid is None else valid.flatten().nonzero()[:, 0]
        place = self.locate(position.detach().double() * UNIT).flatten(0, 1)[real]
        levels, token = levels_of(real // k, place.floor().long(), len(self.down_dims))
        return Cells(levels, token, real, place)

    def down(self, x: Tensor, cells: Cells) -> list[Tensor]:
        """Embedded tokens ``[B, K, dim]`` to the encoding of each level, ``[M, C]``, finest first."""
        x = mean_at(x.flatten(0, 1)[cells.real], cells.token, len(cells.levels[0]))
        encoded: list[Tensor] = []
        for number, (level, stage) in enumerate(zip(cells.levels, self.down_stages, strict=True)):
            if number:
                finer = cells.levels[number - 1]
                x = self.coarsen[number - 1](x, finer.inside)
            x = stage(x, level)
            encoded.append(x)
        return encoded

    def up(
        self, encoded: Sequence[Tensor], seen: Cells, cells: Cells, fill: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """What the decoder makes of each level.

        Args:
            encoded: of the cells that were seen, from :meth:`down`.
            seen: these.
            cells: all that are to be decoded, those that were seen among them.
            fill: ``[C]`` for each level, what stands for the encoding of a cell that was not seen. They
                enter at the coarsest level that they are unseen at first.

        Returns:
            ``[M, C]`` for each level of ``cells``, finest first.
        """
        decoded: list[Tensor] = []
        for number in reversed(range(len(self.up_dims))):
            level = cells.levels[number]
            x = self.skip[number](encoded[number])
            if fill is not None:
                at, found = seen.levels[number].find(level.key)
                x = torch.where(found[:, None], x.index_select(0, at), fill[number].to(x.dtype))
            if decoded:
                x = x + self.refine[number](decoded[-1], level)
            decoded.append(self.up_stages[number](x, level))
        return decoded[::-1]
