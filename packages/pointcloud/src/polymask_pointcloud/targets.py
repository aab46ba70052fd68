"""What is predicted about the points of a token: where they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from polymask import Tokens, UserError
from polymask.data import valid_of
from polymask_pointcloud.boxes import Triple, cells_of, keys_of, relative
from polymask_pointcloud.operations import token_of

_FINE = 1 << 30
"""Places within a cell are summed in whole numbers of this fraction of it: exactly, so in any order."""


class Coordinates(nn.Module):
    """The points of each token, relative to its centre, for an objective that compares sets.

    Args:
        in_dim: numbers per token, from the tokenizer.
        channels: numbers per point, from the tokenizer.
    """

    def __init__(self, *, in_dim: int = 96, channels: int = 3) -> None:
        super().__init__()
        self.channels, self.dim = channels, in_dim // channels * 3

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, k * 3]`` float32, in units of the cloud."""
        return relative(tokens, self.channels).flatten(2)

    def invert(self, prediction: Tensor, tokens: Tokens) -> tuple[Tensor, str]:
        """Predicted points as values of tokens; features are the true ones, as no prediction has them."""
        points = tokens.values.reshape(*tokens.shape, -1, self.channels)
        predicted = prediction.to(points.dtype).reshape(*tokens.shape, -1, 3)
        values = torch.cat([predicted, points[..., 3:]], dim=-1).flatten(2)
        return values, "around the true centre of each token"


class _Subcells(nn.Module):
    """Splits the box of each token into equal slots.

    Tokens that are cells have a box; all points of the cloud in it count. Any other token's box is the
    smallest cube around its centre that holds its points. A slot's number is ``(z * ry + y) * rx + x``.

    Args:
        ratio: slots along x, y and z.
        channels: numbers per point, from the tokenizer.
        cell_low: lower corner of the cells that tokens are, from the tokenizer; None for other tokens.
        cell_size: of a cell.
        cell_shape: cells along each axis.
    """

    def __init__(
        self,
        *,
        ratio: Sequence[int] = (2, 2, 2),
        channels: int = 3,
        cell_low: Triple | None = None,
        cell_size: Triple | None = None,
        cell_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if len(ratio) != 3 or any(r < 1 for r in ratio):
            raise UserError(f"ratio is slots along x, y and z, 1 or more each, got {tuple(ratio)}")
        x, y, z = (int(r) for r in ratio)
        self.ratio, self.slots, self.channels = (x, y, z), x * y * z, channels
        self.cells = cells_of(cell_low, cell_size, cell_shape)

    @torch.no_grad()
    def measure(self, batch: Mapping[str, Tensor], tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Where in each slot its points lie on average, and how many there are.

        Returns:
            ``[B, N, slots, 3]`` in [0, 1], x, y and z in units of the slot, 0.5 where it is empty; and int64
            ``[B, N, slots]``.
        """
        (b, n), s = tokens.shape, self.slots
        place, token, inside = self._by_box(tokens) if self.cells is None else self._by_cell(batch, tokens)
        ratio = torch.tensor(self.ratio, device=place.device)
        index = torch.minimum(place.floor().long().clamp(min=0), ratio - 1)
        x, y, z = index.unbind(-1)
        slot = token * s + (z * self.ratio[1] + y) * self.ratio[0] + x
        slot = torch.where(inside, slot, n * s).flatten(1)
        within = ((place - index).clamp(0, 1) * _FINE).round().long().flatten(1, -2)
        within = torch.cat([within, torch.ones_like(within[..., :1])], dim=-1)
        total = torch.zeros(b, n * s + 1, 4, dtype=torch.int64, device=place.device)
        total.scatter_add_(1, slot[..., None].expand_as(within), within)
        total = total[:, :-1].view(b, n, s, 4)
        count = total[..., 3]
        mean = total[..., :3].double() / (count.clamp(min=1)[..., None] * _FINE)
        return torch.where(count[..., None] > 0, mean, 0.5).float(), count

    def _by_cell(self, batch: Mapping[str, Tensor], tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """Each point's place in its cell, in slots ``[B, P, 3]``; its token; whether there is one."""
        assert self.cells is not None
        points = batch["points"][..., :3]
        index, inside = self.cells.index(points)
        real = valid_of(batch, "points")
        token, found = token_of(keys_of(self.cells, tokens), self.cells.key(index))
        place = (self.cells.scaled(points) - index) * torch.tensor(self.ratio, device=points.device)
        return place, token, inside & found if real is None else inside & found & real

    def _by_box(self, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """The same for the points that tokens hold, ``[B, N, k, 3]``."""
        points = relative(tokens, self.channels)
        half = points.abs().amax((2, 3), keepdim=True).clamp(min=1e-12)
        place = (points.double() / half + 1) / 2 * torch.tensor(self.ratio, device=points.device)
        token = torch.arange(tokens.shape[1], device=points.device)[:, None].expand(points.shape[:-1])
        return place, token, torch.ones_like(token, dtype=torch.bool)


class Centroid(_Subcells):
    """Mean place of the points in each slot of a token's box (GeoMAE, Tian et al. 2023, arXiv 2305.08808).

    In units of the slot, from its lower corner; 0.5 in empty ones, which :meth:`measure` tells apart. The
    order is x, y, z, where the paper's code has z, y, x.

    Tokens that are cells have a box; all points of the cloud in it count. Any other token's box is the
    smallest cube around its centre that holds its points. A slot's number is ``(z * ry + y) * rx + x``.

    Args:
        ratio: slots along x, y and z.
        channels: numbers per point, from the tokenizer.
        cell_low: lower corner of the cells that tokens are, from the tokenizer; None for other tokens.
        cell_size: of a cell.
        cell_shape: cells along each axis.
    """

    @property
    def dim(self) -> int:
        """Three numbers per slot."""
        return 3 * self.slots

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, slots * 3]`` float32 in [0, 1]."""
        return self.measure(batch, tokens)[0].flatten(2)


class Occupancy(_Subcells):
    """Which slots of a token's box hold points, 0 or 1 each (GeoMAE, Tian et al. 2023, arXiv 2305.08808).

    Tokens that are cells have a box; all points of the cloud in it count. Any other token's box is the
    smallest cube around its centre that holds its points. A slot's number is ``(z * ry + y) * rx + x``.

    Args:
        ratio: slots along x, y and z.
        channels: numbers per point, from the tokenizer.
        cell_low: lower corner of the cells that tokens are, from the tokenizer; None for other tokens.
        cell_size: of a cell.
        cell_shape: cells along each axis.
    """

    @property
    def dim(self) -> int:
        """One number per slot."""
        return self.slots

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, slots]`` float32."""
        return (self.measure(batch, tokens)[1] > 0).float()
