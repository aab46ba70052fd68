"""Where the points of each token lie: in its box, and in the slots that the box is cut into.

What several targets start from is found once: each asks a :class:`Given` for it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from polymask import Tokens, UserError
from polymask.data import valid_of
from polymask_pointcloud.boxes import corners_of, keys_of, relative
from polymask_pointcloud.operations import Cells, token_of
from polymask_pointcloud.tokenizers import UNIT

_FINE = 1 << 30
"""Places within a cell are summed in whole numbers of this fraction of it: exactly, so in any order."""

Ratio = Sequence[int]
T_co = TypeVar("T_co", covariant=True)


class Question(Hashable, Protocol[T_co]):
    """What can be found out about tokens; a frozen dataclass, so that equal ones are one."""

    def __call__(self, given: Given, /) -> T_co: ...


class Given:
    """Tokens of a batch, and what has been found out about them.

    Args:
        batch: with ``points``.
        tokens: of it.
    """

    def __init__(self, batch: Mapping[str, Tensor], tokens: Tokens) -> None:
        self.batch, self.tokens = batch, tokens
        self._found: dict[Hashable, Any] = {}

    def find(self, question: Question[T_co]) -> T_co:
        """The answer to a question; to one equal to it that was asked before, the same."""
        if question not in self._found:
            self._found[question] = question(self)
        found: T_co = self._found[question]
        return found


@dataclass(frozen=True)
class Boxes:
    """Which points lie in the box of which token, and where in it.

    Tokens that are cells have a box; all points of the cloud in it count. Any other token's box is the
    smallest cube around its centre that holds its points.

    Args:
        cells: that tokens are; None for other tokens.
        channels: numbers per point of a token.
    """

    cells: Cells | None
    channels: int = 3

    def __call__(self, given: Given) -> tuple[Tensor, Tensor, Tensor]:
        """Places of points in boxes.

        Returns:
            float64 ``[B, P, 3]``, or ``[B, N, k, 3]`` of other tokens, from 0 to 1; the token of each, int64;
            and whether there is one, bool.
        """
        tokens = given.tokens
        if self.cells is None:
            points = relative(tokens, self.channels)
            place = (points.double() / _half(points) + 1) / 2
            token = torch.arange(tokens.shape[1], device=points.device)[:, None].expand(points.shape[:-1])
            return place, token, torch.ones_like(token, dtype=torch.bool)
        points = given.batch["points"][..., :3]
        index, inside = self.cells.index(points)
        real = valid_of(given.batch, "points")
        token, found = token_of(keys_of(self.cells, tokens), self.cells.key(index))
        place = self.cells.scaled(points) - index
        return place, token, inside & found if real is None else inside & found & real

    def places(self, box: Tensor, tokens: Tokens) -> Tensor:
        """From places in boxes ``[B, N, n, 3]`` to places in the cloud, float64, in units of the cloud."""
        if self.cells is None:
            centre = tokens.position[..., :3].double() * UNIT
            half = _half(relative(tokens, self.channels)).double()
            return centre[:, :, None] + (2 * box - 1) * half
        size = torch.tensor(self.cells.size, dtype=torch.float64, device=box.device)
        return corners_of(self.cells, tokens)[:, :, None] + box * size


@dataclass(frozen=True)
class Slots:
    """Where in each slot of each token its points lie on average, and how many there are.

    A slot's number is ``(z * ry + y) * rx + x``.

    Args:
        boxes: that are cut into slots.
        ratio: slots along x, y and z.
    """

    boxes: Boxes
    ratio: tuple[int, int, int]

    def __call__(self, given: Given) -> tuple[Tensor, Tensor]:
        """Mean places and counts.

        Returns:
            float32 ``[B, N, slots, 3]`` in [0, 1], x, y and z in units of the slot, 0.5 where it is empty;
            and int64 ``[B, N, slots]``.
        """
        box, token, inside = given.find(self.boxes)
        (b, n), (x, y, z) = given.tokens.shape, self.ratio
        slots = x * y * z
        most = torch.tensor(self.ratio, device=box.device)
        place = box * most
        index = torch.minimum(place.floor().long().clamp(min=0), most - 1)
        slot = token * slots + (index[..., 2] * y + index[..., 1]) * x + index[..., 0]
        slot = torch.where(inside, slot, n * slots).flatten(1)
        within = ((place - index).clamp(0, 1) * _FINE).round().long().flatten(1, -2)
        within = torch.cat([within, torch.ones_like(within[..., :1])], dim=-1)
        total = torch.zeros(b, n * slots + 1, 4, dtype=torch.int64, device=box.device)
        total.scatter_add_(1, slot[..., None].expand_as(within), within)
        total = total[:, :-1].view(b, n, slots, 4)
        count = total[..., 3]
        mean = total[..., :3].double() / (count.clamp(min=1)[..., None] * _FINE)
        return torch.where(count[..., None] > 0, mean, 0.5).float(), count

    def places(self, within: Tensor, tokens: Tokens) -> Tensor:
        """From places in slots to places in the cloud.

        Args:
            within: ``[B, N, slots, 3]`` in units of the slot.
            tokens: whose slots; boxes of tokens that are no cells are known by the points they hold.

        Returns:
            float64 ``[B, N, slots, 3]``, in units of the cloud.
        """
        x, y, z = self.ratio
        axes = (torch.arange(n, device=within.device) for n in (z, y, x))
        slot = torch.cartesian_prod(*axes).view(-1, 3).flip(-1)
        return self.boxes.places(
            (within.double() + slot) / torch.tensor((x, y, z), device=slot.device), tokens
        )


def ratio_of(scale: Ratio) -> tuple[int, int, int]:
    """Slots along x, y and z.

    Raises:
        UserError: not three numbers of 1 or more.
    """
    if isinstance(scale, int) or len(scale) != 3 or any(n < 1 for n in scale):
        raise UserError(f"a scale is slots along x, y and z, 1 or more each, such as [2, 2, 2]; got {scale}")
    x, y, z = (int(n) for n in scale)
    return x, y, z


def _half(points: Tensor) -> Tensor:
    """Half the side of the cube around points ``[B, N, k, 3]``, ``[B, N, 1, 1]``."""
    return points.abs().amax((2, 3), keepdim=True).clamp(min=1e-12)
