"""Occupied cells of space at several sizes, and convolutions over them.

Cells of all samples of a batch stand one after another, ``[M, C]``, without padding, by sample, then z, then
y, then x. Which are neighbours, and whose cell holds whose, is found once per level, by searching sorted
numbers of cells: no compiled extension, no Python loop over samples. How many cells there are must be known
on the host, so each level waits for the device, and nothing here compiles without a graph break.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

AXIS = 15
"""Bits of a cell's number for each axis."""
MIDDLE = 1 << (AXIS - 1)
"""The index of the finest cell at the origin. Even many times over, so that coarser cells stay aligned."""

WINDOW = 1024
"""Cells of a window, at most."""


def pack(sample: Tensor, index: Tensor) -> Tensor:
    """Numbers of cells, rising by sample, z, y, x: int64 ``[...]``.

    Args:
        sample: int64 ``[...]``, row of the batch, below 2 ** 18.
        index: int64 ``[..., 3]``, x, y and z, around :data:`MIDDLE` at the finest level, half that at the
            next. Cells farther away than that count as at the border.
    """
    x, y, z = index.clamp(1, 2 * MIDDLE - 2).unbind(-1)
    return ((sample << AXIS | z) << AXIS | y) << AXIS | x


def unpack(key: Tensor) -> tuple[Tensor, Tensor]:
    """Undoes :func:`pack`: samples ``[...]`` and indices ``[..., 3]``."""
    low = (1 << AXIS) - 1
    index = torch.stack([key & low, key >> AXIS & low, key >> 2 * AXIS & low], dim=-1)
    return key >> 3 * AXIS, index


@dataclass(frozen=True, eq=False)
class Pairs:
    """Which cell adds to which, by the weight that it is multiplied with.

    Args:
        into: int64 ``[P]``, numbers of the cells that get something; each at most once per weight.
        of: int64 ``[P]``, of the cells that it comes from; each at most once per weight.
        counts: how many pairs there are for each weight, in order.
        cells: how many cells can get something.
    """

    into: Tensor
    of: Tensor
    counts: Sequence[int]
    cells: int


@dataclass(frozen=True, eq=False)
class Level:
    """Occupied cells of one size.

    Args:
        key: int64 ``[M]``, rising, see :func:`pack`.
        parent: int64 ``[M]``, the cell of the next level around each; None at the last.
        parents: cells of the next level.
    """

    key: Tensor
    parent: Tensor | None = None
    parents: int = 0

    def __len__(self) -> int:
        return len(self.key)

    @functools.cached_property
    def sample(self) -> Tensor:
        """Row of the batch of each cell, int64 ``[M]``."""
        return unpack(self.key)[0]

    @functools.cached_property
    def index(self) -> Tensor:
        """Place of each cell, int64 ``[M, 3]``."""
        return unpack(self.key)[1]

    @functools.cached_property
    def octant(self) -> Tensor:
        """Which part of its parent each cell is: int64 ``[M]``, ``4 z + 2 y + x``."""
        x, y, z = (self.index & 1).unbind(-1)
        return z << 2 | y << 1 | x

    def find(self, key: Tensor) -> tuple[Tensor, Tensor]:
        """Places of cells by number, int64 ``[...]``, and bool ``[...]``, whether they are here at all."""
        place = torch.searchsorted(self.key, key).clamp(max=max(len(self) - 1, 0))
        if not len(self):
            return place, torch.zeros_like(place, dtype=torch.bool)
        return place, self.key[place] == key

    @functools.cached_property
    def around(self) -> Pairs:
        """The 27 neighbours of each cell, itself among them, by z, y, x."""
        shifts = (-1, 0, 1)
        rows = torch.tensor(
            [(z << 2 * AXIS) + (y << AXIS) - 1 for z in shifts for y in shifts], device=self.key.device
        )
        wanted = self.key + rows[:, None]
        place = torch.searchsorted(self.key, wanted)
        # neighbours along x stand next to each other, so one search finds three
        key = torch.cat([self.key, self.key.new_full((1,), -1)])
        found, at = [], []
        for x in range(3):
            hit = key[place] == wanted + x
            found.append(hit)
            at.append(place)
            place = place + hit
        hits, places = torch.stack(found, dim=1).flatten(0, 1), torch.stack(at, dim=1).flatten(0, 1)
        weight, into = hits.nonzero(as_tuple=True)
        counts: list[int] = torch.bincount(weight, minlength=27).tolist()
        return Pairs(into, places[weight, into], counts, len(self))

    @functools.cached_property
    def inside(self) -> Pairs:
        """The up to 8 cells within each of the next level, by :attr:`octant`."""
        assert self.parent is not None
        of = self.octant.argsort(stable=True)
        counts: list[int] = torch.bincount(self.octant, minlength=8).tolist()
        return Pairs(self.parent[of], of, counts, self.parents)

    @functools.cached_property
    def windows(self) -> tuple[Windows, Windows]:
        """The cells in windows along two curves, see :func:`windows_of`."""
        one = windows_of(self, WINDOW)
        crowded = one.valid.shape[1] == WINDOW
        return one, windows_of(self, WINDOW, transposed=True) if crowded else one

    def mean(self, x: Tensor) -> Tensor:
        """Of what is inside each cell of the next level: ``[M, C]`` to ``[M', C]``."""
        assert self.parent is not None
        return mean_at(x, self.parent, self.parents)


def levels_of(sample: Tensor, index: Tensor, count: int) -> tuple[list[Level], Tensor]:
    """The occupied cells of ``count`` sizes, each twice the one before.

    Args:
        sample: int64 ``[T]``, row of the batch of each token.
        index: int64 ``[T, 3]``, the finest cell of each, see :func:`pack`.
        count: how many sizes.

    Returns:
        The levels, finest first, and the finest cell of each token, int64 ``[T]``.
    """
    key, token = torch.unique(pack(sample, index), return_inverse=True)
    levels: list[Level] = []
    for _ in range(count - 1):
        row, place = unpack(key)
        above, parent = torch.unique(pack(row, place >> 1), return_inverse=True)
        levels.append(Level(key, parent, len(above)))
        key = above
    return [*levels, Level(key)], token


def mean_at(x: Tensor, at: Tensor, n: int) -> Tensor:
    """Means of the rows of ``[T, C]`` that belong to each of n places, int64 ``[T]``: ``[n, C]``."""
    total = x.new_zeros(n, x.shape[1]).index_add(0, at, x)
    count = at.new_zeros(n).index_add_(0, at, torch.ones_like(at)).clamp(min=1)
    return total / count[:, None].to(x.dtype)


def convolve(x: Tensor, weight: Tensor, pairs: Pairs) -> Tensor:
    """Sums over pairs of cells: ``[M, C]`` and ``[weights, C, D]`` to ``[M', D]``.

    With :attr:`Level.around` this is a convolution of 3 x 3 x 3 at the occupied cells alone (submanifold,
    Graham et al. 2018, arXiv 1711.10275), with :attr:`Level.inside` one of 2 x 2 x 2 and stride 2. A sum
    has a fixed order, on any device.
    """
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        x, weight = x.to(dtype), weight.to(dtype)
    out: Tensor = _Convolution.apply(x, weight, pairs)
    return out


class _Convolution(torch.autograd.Function):
    """One product per weight, of the rows it concerns alone: a surface has some 9 of 27 neighbours."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, pairs: Pairs) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.pairs = pairs
        out = _sums(x, pairs.cells, weight.shape[2])
        for w, into, of in _by_weight(weight, pairs):
            out.index_add_(0, into, (x.index_select(0, of) @ w).to(out.dtype))
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        to_x, to_weight = _sums(x, *x.shape), torch.empty_like(weight)
        for k, (w, into, of) in enumerate(_by_weight(weight, ctx.pairs)):
            part = gradient.index_select(0, into)
            to_x.index_add_(0, of, (part @ w.T).to(to_x.dtype))
            to_weight[k] = x.index_select(0, of).T @ part
        return to_x.to(x.dtype), to_weight, None


def _sums(x: Tensor, rows: int, width: int) -> Tensor:
    return x.new_zeros(rows, width, dtype=torch.promote_types(x.dtype, torch.float32))


def _by_weight(weight: Tensor, pairs: Pairs) -> zip[tuple[Tensor, Tensor, Tensor]]:
    into, of = (torch.split(x, list(pairs.counts)) for x in (pairs.into, pairs.of))
    return zip(weight.unbind(0), into, of, strict=True)


def trilinear(level: Level, features: Tensor, sample: Tensor, place: Tensor) -> Tensor:
    """Features at places between cells: of the eight nearest, those that are occupied.

    Args:
        level: the cells.
        features: ``[M, C]``.
        sample: int64 ``[T]``, row of the batch of each place.
        place: float64 ``[T, 3]`` in cells of this level; the middle of cell i lies at i + 0.5.

    Returns:
        ``[T, C]``; weights are those of trilinear interpolation, scaled to a sum of 1 over the occupied
        cells. 0 where none of the eight is.
    """
    low = (place - 0.5).floor()
    share = place - 0.5 - low
    corners = torch.tensor([[k & 1, k >> 1 & 1, k >> 2] for k in range(8)], device=place.device)
    weight = torch.where(corners.bool(), share[:, None], 1 - share[:, None]).prod(-1)
    at, found = level.find(pack(sample[:, None], low.long()[:, None] + corners))
    weight = torch.where(found, weight, 0.0)
    weight = (weight / weight.sum(1, keepdim=True).clamp(min=1e-12)).to(features.dtype)
    out = features.new_zeros(len(place), features.shape[1])
    for corner in range(8):
        out = out + weight[:, corner, None] * features.index_select(0, at[:, corner])
    return out


@dataclass(frozen=True, eq=False)
class Windows:
    """Cells in a row of windows of one width, those of a sample one after another along a curve.

    Args:
        slot: int64 ``[M]``, where each cell stands.
        valid: bool ``[windows, width]``, False where none stands.
    """

    slot: Tensor
    valid: Tensor

    def fill(self, x: Tensor) -> Tensor:
        """``[M, C]`` to ``[windows, width, C]``, zeros where no cell stands."""
        empty = x.new_zeros(self.valid.numel(), x.shape[1])
        return empty.index_copy(0, self.slot, x).view(*self.valid.shape, -1)

    def read(self, x: Tensor) -> Tensor:
        """Undoes :meth:`fill`."""
        return x.flatten(0, 1).index_select(0, self.slot)


def windows_of(level: Level, most: int, *, transposed: bool = False) -> Windows:
    """Windows of at most so many cells along the Z curve, or along that of z, y, x.

    Where all cells of a sample fit into one window the curve does not matter.
    """
    index = level.index.flip(-1) if transposed else level.index
    code = torch.zeros_like(level.key)
    for bit in range(AXIS):
        for axis in range(3):
            code |= (index[:, axis] >> bit & 1) << (3 * bit + axis)
    # by the curve, then, stably, by sample
    order = code.argsort(stable=True)
    order = order[level.sample[order].argsort(stable=True)]
    count = torch.bincount(level.sample)
    width = min(most, int(count.max()))
    windows = -(-count // width)
    first = (windows.cumsum(0) - windows) * width
    start = count.cumsum(0) - count
    sample = level.sample[order]
    place = torch.arange(len(level), device=order.device) - start[sample] + first[sample]
    slot = torch.empty_like(place).index_copy(0, order, place)
    valid = torch.zeros(int(windows.sum()) * width, dtype=torch.bool, device=order.device)
    return Windows(slot, valid.index_fill(0, slot, True).view(-1, width))
