"""Regular cells of space: voxels, and pillars, which are as high as the space."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from polymask.errors import UserError


@dataclass(frozen=True)
class Cells:
    """A box of space cut into equal cells.

    Args:
        low: lower corner ``(x, y, z)``, in units of the cloud.
        size: of a cell along each axis.
        shape: cells along each axis.
    """

    low: tuple[float, float, float]
    size: tuple[float, float, float]
    shape: tuple[int, int, int]

    @classmethod
    def over(
        cls, low: tuple[float, float, float], high: tuple[float, float, float], size: tuple[float, ...]
    ) -> Cells:
        """Cells of a size over a box; the last along an axis may reach beyond it.

        Raises:
            UserError: a box or a cell of no extent.
        """
        if any(h <= l for l, h in zip(low, high, strict=True)) or any(s <= 0 for s in size):  # noqa: E741
            raise UserError(f"cells of {size} over the box from {low} to {high}: give it extent")
        cells = [max(math.ceil((h - l) / s - 1e-6), 1) for l, h, s in zip(low, high, size, strict=True)]  # noqa: E741
        return cls(low, (size[0], size[1], size[2]), (cells[0], cells[1], cells[2]))

    def finer(self, ratio: tuple[int, int, int]) -> Cells:
        """The same box with each cell cut into ``ratio`` along each axis."""
        x, y, z = (s / r for s, r in zip(self.size, ratio, strict=True))
        i, j, k = (n * r for n, r in zip(self.shape, ratio, strict=True))
        return Cells(self.low, (x, y, z), (i, j, k))

    def scaled(self, points: Tensor) -> Tensor:
        """Points ``[..., 3]`` in cells from the lower corner, float64."""
        low, size = (
            torch.tensor(v, dtype=torch.float64, device=points.device) for v in (self.low, self.size)
        )
        return (points.double() - low) / size

    def index(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Points ``[..., 3]`` to cells, int64 ``[..., 3]``, and bool ``[...]``: inside the box.

        The upper faces of the box belong to it.
        """
        place = self.scaled(points)
        shape = torch.tensor(self.shape, device=points.device)
        inside = ((place >= 0) & (place <= shape)).all(-1)
        return torch.minimum(place.floor().long().clamp(min=0), shape - 1), inside

    def key(self, index: Tensor) -> Tensor:
        """Number of a cell: by z, then y, then x, int64 ``[...]``."""
        x, y, z = index.unbind(-1)
        return (z * self.shape[1] + y) * self.shape[0] + x

    def centre(self, key: Tensor) -> Tensor:
        """Centres of cells by number, float32 ``[..., 3]``."""
        nx, ny, _ = self.shape
        index = torch.stack([key % nx, key // nx % ny, key // (nx * ny)], dim=-1)
        low, size = (torch.tensor(v, dtype=torch.float64, device=key.device) for v in (self.low, self.size))
        return (low + (index + 0.5) * size).float()

    @property
    def count(self) -> int:
        """Cells in all; the number of none."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Grouped:
    """Points by occupied cell.

    Args:
        key: int64 ``[B, M]``, numbers of the occupied cells, rising; padded with ``cells.count``.
        valid: bool ``[B, M]``, False on padding.
        count: int64 ``[B, M]``, points in each.
        index: int64 ``[B, M, k]``, k points of each, evenly through those there are in the order of the
            cloud; where there are fewer than k, each as often as the others or once more.
    """

    key: Tensor
    valid: Tensor
    count: Tensor
    index: Tensor


def group_by_cell(cells: Cells, points: Tensor, k: int, valid: Tensor | None = None) -> Grouped:
    """The occupied cells of each cloud, and points of each.

    How many cells are occupied has to be known on the host, so this waits for the device.

    Args:
        cells: the box; points outside it are left out.
        points: ``[B, N, 3]``.
        k: points to take of each cell.
        valid: bool ``[B, N]``.
    """
    index, inside = cells.index(points)
    if valid is not None:
        inside = inside & valid
    key = torch.where(inside, cells.key(index), cells.count)
    sorted_key, order = key.sort(dim=1, stable=True)
    first = torch.ones_like(sorted_key, dtype=torch.bool)
    first[:, 1:] = sorted_key[:, 1:] != sorted_key[:, :-1]
    first &= sorted_key < cells.count
    occupied = first.sum(1)
    most = max(int(occupied.max()), 1)
    number = torch.arange(most, device=key.device)
    real = number < occupied[:, None]
    begin = torch.searchsorted(first.cumsum(1), (number + 1).repeat(len(key), 1))
    begin = torch.where(real, begin, 0)
    cell = torch.where(real, sorted_key.gather(1, begin), cells.count)
    end = torch.searchsorted(sorted_key, cell, right=True)
    count = torch.where(real, end - begin, 0)
    place = begin[..., None] + torch.arange(k, device=key.device) * count[..., None] // k
    return Grouped(cell, real, count, order.gather(1, place.flatten(1)).view(place.shape))


def token_of(key: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """At which place of a rising row each wanted number stands.

    Args:
        key: int64 ``[B, M]``, rising, as :class:`Grouped` has it.
        wanted: int64 ``[B, ...]``.

    Returns:
        int64 and bool, shaped as ``wanted``: the place, and whether it is there at all.
    """
    flat = wanted.flatten(1).contiguous()
    place = torch.searchsorted(key.contiguous(), flat).clamp(max=key.shape[1] - 1)
    return place.view(wanted.shape), (key.gather(1, place) == flat).view(wanted.shape)
