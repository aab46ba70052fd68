"""What is predicted about the surface around a token: how it faces and how it bends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from polymask import Tokens, UserError
from polymask.types import Count, Fact, Whole
from polymask_pointcloud.boxes import Triple, cells_of, index_of, keys_of, relative
from polymask_pointcloud.operations import Cells, Shape, local_shape, take, token_of
from polymask_pointcloud.slots import Boxes, Given, Ratio, Slots, ratio_of
from polymask_pointcloud.targets import Answers
from polymask_pointcloud.tokenizers import UNIT


class Around(NamedTuple):
    """What the points around each token are like.

    Attributes:
        shape: their normal and curvature, ``[B, N, 3]`` each.
        middle: the centroid of the token's own points, float64 ``[B, N, 3]``.
        places: how many there are, int64 ``[B, N]``.
    """

    shape: Shape
    middle: Tensor
    places: Tensor


@dataclass(frozen=True)
class Surface:
    """The shape of the surface around each token.

    For tokens that are cells, of the centroids of the slots of the cell and of all cells that touch it
    (GeoMAE: 3 x 3 pillars); for others, of the token's own points.

    Args:
        slots: whose centroids it is of.
        centre: what spread is measured from, ``"mean"`` or ``"token"``, see :class:`Normals`.
    """

    slots: Slots
    centre: str

    def __call__(self, given: Given) -> Around:
        tokens, boxes = given.tokens, self.slots.boxes
        if boxes.cells is None:
            points = relative(tokens, boxes.channels).double()
            points = points + tokens.position[..., :3].double()[:, :, None] * UNIT
            middle, real = points.mean(2), None
            # where a cloud has too few points for a token, its nearest fills up: one place
            count = 1 + (points[:, :, 1:] != points[:, :, :1]).any(-1).sum(-1)
        else:
            whole = Slots(boxes, (1, 1, 1))
            middle = whole.places(given.find(whole)[0], tokens)[:, :, 0]
            part, held = given.find(self.slots)
            points, real = _neighbourhood(self.slots.places(part, tokens), held > 0, tokens, boxes.cells)
            count = real.sum(-1)
        return Around(local_shape(points, real, middle if self.centre == "token" else None), middle, count)


def _neighbourhood(place: Tensor, occupied: Tensor, tokens: Tokens, cells: Cells) -> tuple[Tensor, Tensor]:
    """Places of the slots of a cell and of those that touch it, ``[B, N, K, 3]``, and which there are."""
    index, key = index_of(cells, tokens), keys_of(cells, tokens)
    steps = [torch.arange(-1, 2, device=key.device) if n > 1 else index.new_zeros(1) for n in cells.shape]
    near = index[:, :, None] + torch.cartesian_prod(*steps)
    inside = ((near >= 0) & (near < torch.tensor(cells.shape, device=key.device))).all(-1)
    token, found = token_of(key, torch.where(inside, cells.key(near), -1))
    real = take(occupied, token) & found[..., None]
    return take(place.flatten(2), token).reshape(*tokens.shape, -1, 3), real.flatten(2)


class _OfSurface(nn.Module):
    """Something about the :class:`Surface` around each token.

    Args:
        centre: what spread is measured from: the ``"mean"`` of the places around, or the ``"token"``'s own
            centroid, as GeoMAE has it, which lies to one side of them at the edge of a surface.
        least: of fewer places than so many there is nothing to say.
        ratio: slots of a cell along x, y and z.
        channels: numbers per point, from the tokenizer.
        cell_low: lower corner of the cells that tokens are, from the tokenizer; None for other tokens.
        cell_size: of a cell.
        cell_shape: cells along each axis.
    """

    dim = 3
    parts = ((1, 3),)

    def __init__(
        self,
        *,
        centre: Literal["mean", "token"] = "mean",
        least: Whole = 3,
        ratio: Ratio = (2, 2, 4),
        channels: Fact[Count] = 3,
        cell_low: Fact[Triple | None] = None,
        cell_size: Fact[Triple | None] = None,
        cell_shape: Fact[Sequence[int] | None] = None,
    ) -> None:
        super().__init__()
        if centre not in ("mean", "token"):
            raise UserError(f"centre={centre!r}: choose 'mean' or 'token'")
        if least < 1:
            raise UserError(f"least must be 1 place or more, got {least}")
        boxes = Boxes(cells_of(cell_low, cell_size, cell_shape), channels)
        self.surface, self.least = Surface(Slots(boxes, ratio_of(ratio)), centre), least

    def describe(self, around: Around) -> Tensor:
        """What is said of the surface around each token, ``[B, N, 3]`` float32."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, 3]`` float32."""
        return self.describe(Given(batch, tokens).find(self.surface))

    @torch.no_grad()
    def answers(self, given: Given) -> list[Answers]:
        """``[B, N, 1, 3]``, known where there are places enough."""
        around = given.find(self.surface)
        return [Answers(self.describe(around)[:, :, None], (around.places >= self.least)[..., None])]


class Normals(_OfSurface):
    """The normal of the surface around each token, a unit vector.

    A decomposition leaves its sign open. ``"outward"`` has it point away from the origin of the cloud,
    ``"up"`` along z, ``"none"`` leaves it as it came; the objective ``pointcloud/undirected`` takes no
    notice. Where the sign is random, mean squared error is least for a guess of 0: 1/3.

    Args:
        sign: how normals are turned.
        centre: what spread is measured from: the ``"mean"`` of the places around, or the ``"token"``'s own
            centroid, as GeoMAE has it.
        least: of fewer places than so many there is nothing to say, and what is said means nothing; GeoMAE
            has 1.
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
        least: Whole = 3,
        ratio: Ratio = (2, 2, 4),
        channels: Fact[Count] = 3,
        cell_low: Fact[Triple | None] = None,
        cell_size: Fact[Triple | None] = None,
        cell_shape: Fact[Sequence[int] | None] = None,
    ) -> None:
        if sign not in ("outward", "up", "none"):
            raise UserError(f"sign={sign!r}: choose 'outward', 'up' or 'none'")
        cell: dict[str, Any] = {"cell_low": cell_low, "cell_size": cell_size, "cell_shape": cell_shape}
        super().__init__(centre=centre, least=least, ratio=ratio, channels=channels, **cell)
        self.sign = sign

    def describe(self, around: Around) -> Tensor:
        """Normals, with the sign of :attr:`sign`."""
        normal = around.shape.normal
        if self.sign == "none":
            return normal
        along = normal[..., 2] if self.sign == "up" else (normal * around.middle).sum(-1)
        return torch.where(along[..., None] < 0, -normal, normal)


class Curvature(_OfSurface):
    """How the points around each token spread: the shares of three directions, falling, that add up to 1.

    GeoMAE's pseudo-curvature (Tian et al. 2023, arXiv 2305.08808): (1/2, 1/2, 0) in a plane.

    Args:
        centre: what spread is measured from: the ``"mean"`` of the places around, or the ``"token"``'s own
            centroid, as GeoMAE has it.
        least: of fewer places than so many there is nothing to say, and what is said means nothing; GeoMAE
            has 1.
        ratio: slots of a cell along x, y and z, whose centroids it is of.
        channels: numbers per point, from the tokenizer.
        cell_low: lower corner of the cells that tokens are, from the tokenizer; None for other tokens.
        cell_size: of a cell.
        cell_shape: cells along each axis.
    """

    def describe(self, around: Around) -> Tensor:
        """Shares, in [0, 1]."""
        return around.shape.curvature
