"""What is predicted about the surface around a token: how it faces and how it bends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from polymask import Tokens, UserError
from polymask_pointcloud.boxes import Triple, corners_of, index_of, keys_of, relative
from polymask_pointcloud.operations import Cells, Shape, local_shape, take, token_of
from polymask_pointcloud.targets import Centroid


class _Surface(nn.Module):
    """The shape of the surface around each token.

    For tokens that are cells, of the centroids of the slots of the cell and of all cells that touch it
    (GeoMAE: 3 x 3 pillars); for others, of the token's own points.

    Args:
        centre: what spread is measured from: the ``"mean"`` of those places, or the ``"token"``'s own
            centroid, as GeoMAE has it, which lies to one side of them at the edge of a surface.
        ratio: slots of a cell along x, y and z.
        channels: numbers per point, from the tokenizer.
        cell_low: lower corner of the cells that tokens are, from the tokenizer; None for other tokens.
        cell_size: of a cell.
        cell_shape: cells along each axis.
    """

    dim = 3

    def __init__(
        self,
        *,
        centre: Literal["mean", "token"] = "mean",
        ratio: Sequence[int] = (2, 2, 4),
        channels: int = 3,
        cell_low: Triple | None = None,
        cell_size: Triple | None = None,
        cell_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if centre not in ("mean", "token"):
            raise UserError(f"centre={centre!r}: choose 'mean' or 'token'")
        self.centre, self.channels = centre, channels
        cell: dict[str, Any] = {"cell_low": cell_low, "cell_size": cell_size, "cell_shape": cell_shape}
        self.parts = Centroid(ratio=ratio, channels=channels, **cell)
        self.whole = Centroid(ratio=(1, 1, 1), channels=channels, **cell)

    @torch.no_grad()
    def shape(self, batch: Mapping[str, Tensor], tokens: Tokens) -> tuple[Shape, Tensor]:
        """Normals and curvature, and of how many places they are: int64 ``[B, N]``."""
        if self.parts.cells is None:
            points = relative(tokens, self.channels)
            own = points.mean(2) if self.centre == "token" else None
            count = torch.full(tokens.shape, points.shape[2], device=points.device)
            return local_shape(points, None, own), count
        points, real = self._around(batch, tokens, self.parts.cells)
        own = None
        if self.centre == "token":
            own = corners_of(self.whole.cells, tokens) + self._middle(batch, tokens)
        return local_shape(points, real, own), real.sum(-1)

    def _middle(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """Centroid of each cell from its lower corner, float64 ``[B, N, 3]``."""
        assert self.whole.cells is not None
        mean, _ = self.whole.measure(batch, tokens)
        return mean[:, :, 0].double() * torch.tensor(self.whole.cells.size, device=mean.device)

    def _around(self, batch: Mapping[str, Tensor], tokens: Tokens, cells: Cells) -> tuple[Tensor, Tensor]:
        """Centroids of the slots of the cells around each token, ``[B, N, 27 * slots, 3]``, and which are."""
        mean, count = self.parts.measure(batch, tokens)
        x, y, z = self.parts.ratio
        device = mean.device
        ratio = torch.tensor(self.parts.ratio, device=device)
        slot = torch.cartesian_prod(*(torch.arange(r, device=device) for r in (z, y, x))).view(-1, 3).flip(-1)
        fraction = (mean.double() + slot) / ratio
        place = corners_of(cells, tokens)[:, :, None] + fraction * torch.tensor(cells.size, device=device)
        index, key = index_of(cells, tokens), keys_of(cells, tokens)
        steps = [torch.arange(-1, 2, device=device) if n > 1 else index.new_zeros(1) for n in cells.shape]
        near = index[:, :, None] + torch.cartesian_prod(*steps)
        inside = ((near >= 0) & (near < torch.tensor(cells.shape, device=device))).all(-1)
        token, found = token_of(key, torch.where(inside, cells.key(near), -1))
        real = take(count.double(), token) > 0
        real &= found[..., None]
        around = take(place.flatten(2), token)
        return around.reshape(*tokens.shape, -1, 3), real.flatten(2)


class Normals(_Surface):
    """The normal of the surface around each token, a unit vector.

    A decomposition leaves its sign open. ``"outward"`` has it point away from the origin of the cloud,
    ``"up"`` along z, ``"none"`` leaves it as it came; the objective ``pointcloud/undirected`` takes no
    notice. Where the sign is random, mean squared error is least for a guess of 0: 1/3.

    Args:
        sign: how normals are turned.
        centre: what spread is measured from: the ``"mean"`` of the places around, or the ``"token"``'s own
            centroid, as GeoMAE has it.
        ratio: slots of a cell along x, y and z, whose centroids the normal is of.
        channels: numbers per point, from the tokenizer.
        cell_low: lower corner of the cells that tokens are, from the tokenizer; None for other tokens, whose
            normals are of their own points.
        cell_size: of a cell.
        cell_shape: cells along each axis.
    """

    def __init__(
        self,
        *,
        sign: Literal["outward", "up", "none"] = "outward",
        centre: Literal["mean", "token"] = "mean",
        ratio: Sequence[int] = (2, 2, 4),
        channels: int = 3,
        cell_low: Triple | None = None,
        cell_size: Triple | None = None,
        cell_shape: Sequence[int] | None = None,
    ) -> None:
        if sign not in ("outward", "up", "none"):
            raise UserError(f"sign={sign!r}: choose 'outward', 'up' or 'none'")
        cell: dict[str, Any] = {"cell_low": cell_low, "cell_size": cell_size, "cell_shape": cell_shape}
        super().__init__(centre=centre, ratio=ratio, channels=channels, **cell)
        self.sign = sign

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, 3]`` float32."""
        return self.turned(self.shape(batch, tokens)[0].normal, tokens)

    def turned(self, normal: Tensor, tokens: Tokens) -> Tensor:
        """The same directions with the sign of :attr:`sign`."""
        if self.sign == "none":
            return normal
        along = normal[..., 2]
        if self.sign == "outward":
            centre = tokens.position[..., :3].to(normal.dtype)
            along = (normal[..., : centre.shape[-1]] * centre).sum(-1)
        return torch.where(along[..., None] < 0, -normal, normal)


class Curvature(_Surface):
    """How the points around each token spread: the shares of three directions, falling, that add up to 1.

    GeoMAE's pseudo-curvature (Tian et al. 2023, arXiv 2305.08808): (1/2, 1/2, 0) in a plane.

    Args:
        centre: what spread is measured from: the ``"mean"`` of the places around, or the ``"token"``'s own
            centroid, as GeoMAE has it.
        ratio: slots of a cell along x, y and z, whose centroids it is of.
        channels: numbers per point, from the tokenizer.
        cell_low: lower corner of the cells that tokens are, from the tokenizer; None for other tokens.
        cell_size: of a cell.
        cell_shape: cells along each axis.
    """

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, 3]`` float32 in [0, 1]."""
        return self.shape(batch, tokens)[0].curvature
