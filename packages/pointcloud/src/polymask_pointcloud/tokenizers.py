"""Point clouds as tokens: groups around sampled centres, voxels, pillars.

A token's values are k of its points, each its place relative to the token's centre and its features, one
after another: ``[B, N, k * (3 + F)]``. Positions are centres in units of :data:`UNIT`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polymask import Mask, Tokens, UserError
from polymask.data import length_key, valid_of
from polymask.types import Count, Fact, Whole
from polymask_pointcloud.display import Cloud, compare
from polymask_pointcloud.operations import Cells, Grouped, farthest_points, group_by_cell, nearest, take

UNIT = 0.1
"""What one step of ``Tokens.position`` is in units of the cloud. Positions are in token units by contract,
and tokens of a cloud in the unit sphere lie about so far apart, as fixed sines and cosines need it."""

_FEW = 0.05
"""Share of the points that may lie outside a box without a word: augmentation moves some there."""


class _Points(nn.Module):
    """What tokenizers of clouds share."""

    key = "points"
    axes = 3

    def __init__(self, features: int, per_token: int) -> None:
        super().__init__()
        if per_token < 1:
            raise UserError(f"a token needs 1 point or more, got {per_token}")
        self.channels, self.per_token = 3 + features, per_token

    @property
    def provides(self) -> dict[str, Any]:
        """``in_dim``, ``grid`` (None), ``channels`` (numbers per point) and ``axes`` (of positions)."""
        in_dim = self.per_token * self.channels
        return {"in_dim": in_dim, "grid": None, "channels": self.channels, "axes": self.axes}

    def read(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Clouds of a batch ``[B, N, channels]``, and which of their points are real."""
        points = batch[self.key]
        if points.dim() != 3 or points.shape[2] != self.channels:
            raise ValueError(f"expected points [B, N, {self.channels}], got {list(points.shape)}")
        return points, valid_of(batch, self.key)

    def gather(self, points: Tensor, index: Tensor, centre: Tensor) -> Tensor:
        """Points ``[B, M, k]`` by index around centres ``[B, M, 3]`` to values."""
        found = take(points, index)
        relative = found[..., :3] - centre[:, :, None]
        return torch.cat([relative, found[..., 3:]], dim=-1).flatten(2)

    def places(self, tokens: Tokens, values: Tensor) -> Tensor:
        """Where the points are that values ``[B, N, k * channels]`` of tokens stand for: ``[B, N, k, 3]``."""
        relative = values.reshape(*tokens.shape, -1, self.channels)[..., :3]
        return relative + self.centre(tokens)[:, :, None].to(relative.dtype)

    def centre(self, tokens: Tokens) -> Tensor:
        """Centres of tokens in units of the cloud, ``[B, N, 3]``."""
        return tokens.position * UNIT

    def show(self, tokens: Tokens, mask: Mask, predicted: Tensor | None = None) -> list[Cloud]:
        """Each sample to turn: what a mask leaves of it, what it hides, and values predicted there."""
        guess = None if predicted is None else self.places(tokens, predicted)
        return compare(self.places(tokens, tokens.values), mask, guess, tokens.valid)

    def example(self, n: int, seed: int = 0) -> dict[str, Tensor]:
        """``n`` clouds of noise of 80 to 128 points, in the unit sphere however they are turned."""
        generator = torch.Generator().manual_seed(seed)
        points = torch.rand(n, 128, self.channels, generator=generator) - 0.5
        length = torch.randint(80, 129, (n,), generator=generator)
        points[torch.arange(128) >= length[:, None]] = 0
        return {self.key: points, length_key(self.key): length}


class Groups(_Points):
    """Neighbourhoods of centres that cover the cloud (Point-MAE, Pang et al. 2022, arXiv 2203.06604).

    Centres are farthest-point samples, a token is the nearest points of one. Groups overlap. A padded
    cloud of fewer points than ``groups`` has as many groups as points.

    Args:
        features: numbers of a point beside its place, from the data.
        groups: centres per cloud.
        neighbours: points per group.
    """

    def __init__(self, *, features: Fact[Whole] = 0, groups: Count = 64, neighbours: Count = 32) -> None:
        super().__init__(features, neighbours)
        if groups < 2:
            raise UserError(f"a cloud needs 2 groups or more, got {groups}")
        self.groups = groups

    def forward(self, batch: Mapping[str, Tensor]) -> Tokens:
        """``batch["points"]`` float ``[B, N, 3 + F]`` to tokens ``[B, groups, neighbours * (3 + F)]``.

        Raises:
            ValueError: points of another width than this tokenizer was made for.
        """
        points, valid = self.read(batch)
        place = points[..., :3]
        centre = take(place, farthest_points(place, self.groups, valid))
        _, index = nearest(centre, place, self.per_token, valid)
        real = None
        if valid is not None:
            real = torch.arange(self.groups, device=valid.device) < valid.sum(1, keepdim=True)
        return Tokens(self.gather(points, index, centre), centre / UNIT, valid=real)


class Voxels(_Points):
    """Occupied cubes of a box, by z, then y, then x.

    Samples differ in how many there are, so tokens are padded, and the device is waited for. Of a cube of
    many points, k evenly through them in the order of the cloud are taken; of few, each several times.

    Args:
        features: numbers of a point beside its place, from the data.
        voxel: side of a cube, in units of the cloud.
        neighbours: points per token.
        low: lower corner of the box; points outside it are left out.
        high: upper corner.
    """

    _told = False

    def __init__(
        self,
        *,
        features: Fact[Whole] = 0,
        voxel: float = 0.25,
        neighbours: Count = 16,
        low: Sequence[float] = (-1.0, -1.0, -1.0),
        high: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:
        super().__init__(features, neighbours)
        self.cells = Cells.over(_corner(low), _corner(high), (voxel,) * 3)

    @property
    def provides(self) -> dict[str, Any]:
        """Of any tokenizer of clouds, and of the cells ``cell_low``, ``cell_size`` and ``cell_shape``."""
        cells = self.cells
        shape = {"cell_low": cells.low, "cell_size": cells.size, "cell_shape": cells.shape}
        return {**super().provides, **shape}

    def forward(self, batch: Mapping[str, Tensor]) -> Tokens:
        """``batch["points"]`` float ``[B, N, 3 + F]`` to tokens ``[B, M, neighbours * (3 + F)]``.

        M is as many as the fullest cloud occupies. Where more than a few points lie outside the box, this is
        told once.

        Raises:
            ValueError: points of another width than this tokenizer was made for.
            UserError: a cloud lies outside the box, or each cloud in one cell.
        """
        points, valid = self.read(batch)
        found = group_by_cell(self.cells, points[..., :3], self.per_token, valid)
        self._check(found, points[..., :3], valid)
        centre = self.cells.centre(found.key)
        values = self.gather(points, found.index, centre)
        return Tokens(values, centre[..., : self.axes] / UNIT, valid=found.valid)

    def _check(self, found: Grouped, place: Tensor, valid: Tensor | None) -> None:
        """Compare the box with the clouds.

        Raises:
            UserError: a cloud lies outside, or each cloud in one cell.
        """
        real = place.new_ones(place.shape[:2], dtype=torch.bool) if valid is None else valid
        inside, total = found.count.sum(1), real.sum(1)
        left_out = int((total - inside).sum())
        if not left_out and found.key.shape[1] > 1:
            return
        cells, known = self.cells, place[real]
        high = [low + n * size for low, n, size in zip(cells.low, cells.shape, cells.size, strict=True)]
        box = f"the tokenizer's box, {_text(cells.low)} to {_text(high)}"
        extent = f"the points of this batch lie from {_text(known.amin(0))} to {_text(known.amax(0))}"
        if bool((inside == 0).any()):
            raise UserError(
                f"{int((inside == 0).sum())} of {len(inside)} clouds have no point in {box}; {extent}: set "
                "--tokenizer.low and --tokenizer.high in their units, or --data.normalise sphere"
            )
        if len(inside) > 1 and found.key.shape[1] == 1:
            raise UserError(
                f"each cloud lies in one cell of {_text(cells.size)}, and masking needs several; {extent}: "
                "set a smaller --tokenizer.voxel or --tokenizer.pillar"
            )
        if left_out > _FEW * int(total.sum()) and not self._told:
            self._told = True
            warnings.warn(
                f"{left_out} of {int(total.sum())} points of a batch lie outside {box}, and are left out; "
                f"{extent}",
                stacklevel=2,
            )


class Pillars(Voxels):
    """Occupied columns of a box, each as high as the box (Lang et al. 2019, arXiv 1812.05784).

    As :class:`Voxels`, and positions have two axes, x and y.

    Args:
        features: numbers of a point beside its place, from the data.
        pillar: side of a column, in units of the cloud.
        neighbours: points per token.
        low: lower corner of the box; points outside it are left out.
        high: upper corner.
    """

    axes = 2

    def __init__(
        self,
        *,
        features: Fact[Whole] = 0,
        pillar: float = 0.125,
        neighbours: Count = 32,
        low: Sequence[float] = (-1.0, -1.0, -1.0),
        high: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:
        _Points.__init__(self, features, neighbours)
        lower, upper = _corner(low), _corner(high)
        self.cells = Cells.over(lower, upper, (pillar, pillar, upper[2] - lower[2]))

    def centre(self, tokens: Tokens) -> Tensor:
        middle = self.cells.low[2] + self.cells.size[2] / 2
        return nn.functional.pad(super().centre(tokens), (0, 1), value=middle)


def _text(place: Sequence[float] | Tensor) -> str:
    return f"({', '.join(f'{float(x):.4g}' for x in place)})"


def _corner(place: Sequence[float]) -> tuple[float, float, float]:
    if len(place) != 3:
        raise UserError(f"a corner is three numbers, x, y and z, got {tuple(place)}")
    return float(place[0]), float(place[1]), float(place[2])
