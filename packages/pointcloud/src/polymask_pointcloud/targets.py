"""What is predicted about the points of a token: where they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from polymask import Mask, Tokens, UserError
from polymask.data import valid_of
from polymask.protocols import Target
from polymask_pointcloud.boxes import Triple, cells_of, corners_of, keys_of, relative
from polymask_pointcloud.operations import token_of
from polymask_pointcloud.tokenizers import UNIT

_FINE = 1 << 30
"""Places within a cell are summed in whole numbers of this fraction of it: exactly, so in any order."""

Ratio = Sequence[int]
K = TypeVar("K")


class Answers(NamedTuple):
    """What a target says about the parts of each token, and of which of them it has nothing to say.

    Attributes:
        values: float32 ``[B, N, S, D]``, D numbers about each of S parts.
        known: bool ``[B, N, S]``, False where there is no answer and the numbers mean nothing.
    """

    values: Tensor
    known: Tensor


def parts_of(target: Target) -> tuple[tuple[int, int], ...]:
    """How many parts of a token a target speaks of, and how many numbers about each, by scale.

    A target that speaks of parts has ``parts``, this, and ``answers(batch, tokens)``, an :class:`Answers` for
    each scale; any other speaks of whole tokens and always has an answer.
    """
    whole = ((1, target.dim),)
    parts: tuple[tuple[int, int], ...] = getattr(target, "parts", whole)
    return parts


def answers_of(target: Target, batch: Mapping[str, Tensor], tokens: Tokens) -> list[Answers]:
    """What a target says, by scale; see :func:`parts_of`."""
    if hasattr(target, "answers"):
        answers: list[Answers] = target.answers(batch, tokens)
        return answers
    values = target(dict(batch), tokens)[:, :, None]
    return [Answers(values, torch.ones_like(values[..., 0], dtype=torch.bool))]


def keep_answers(answers: Mapping[K, Answers], tokens: Tokens, mask: Mask) -> dict[K, Answers]:
    """The answers at the visible tokens of a mask, ``[B, K, S, D]``; what pads shorter rows has none."""
    told = [torch.cat([a.values, a.known[..., None].float()], dim=-1).flatten(2) for a in answers.values()]
    kept = mask.keep(Tokens(torch.cat(told, dim=-1), tokens.position, valid=tokens.valid))
    result: dict[K, Answers] = {}
    shares = torch.split(kept.values, [x.shape[-1] for x in told], dim=-1)
    for (name, answer), share in zip(answers.items(), shares, strict=True):
        both = share.reshape(*share.shape[:2], answer.known.shape[-1], -1)
        known = both[..., -1] > 0
        result[name] = Answers(both[..., :-1], known if kept.valid is None else known & kept.valid[..., None])
    return result


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
        """``[B, N, k * 3]`` float32, in steps of ``Tokens.position``: numbers of about 1."""
        return relative(tokens, self.channels).flatten(2) / UNIT

    def invert(self, prediction: Tensor, tokens: Tokens) -> tuple[Tensor, str]:
        """Predicted points as values of tokens; features are the true ones, as no prediction has them."""
        points = tokens.values.reshape(*tokens.shape, -1, self.channels)
        predicted = UNIT * prediction.to(points.dtype).reshape(*tokens.shape, -1, 3)
        values = torch.cat([predicted, points[..., 3:]], dim=-1).flatten(2)
        return values, "around the true centre of each token"


class _Subcells(nn.Module):
    """Cuts the box of each token into equal slots, at one scale or several.

    Tokens that are cells have a box; all points of the cloud in it count. Any other token's box is the
    smallest cube around its centre that holds its points. A slot's number is ``(z * ry + y) * rx + x``.

    Args:
        scales: slots along x, y and z, for each scale.
        channels: numbers per point, from the tokenizer.
        cell_low: lower corner of the cells that tokens are, from the tokenizer; None for other tokens.
        cell_size: of a cell.
        cell_shape: cells along each axis.
    """

    width: int
    """Numbers about each slot."""

    def __init__(
        self,
        *,
        scales: Sequence[Ratio] = ((2, 2, 2),),
        channels: int = 3,
        cell_low: Triple | None = None,
        cell_size: Triple | None = None,
        cell_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.scales = tuple(_ratio(scale) for scale in scales)
        if not self.scales:
            raise UserError("scales is a list of slots along x, y and z, such as [[2, 2, 2]]; it is empty")
        self.channels, self.cells = channels, cells_of(cell_low, cell_size, cell_shape)

    @property
    def parts(self) -> tuple[tuple[int, int], ...]:
        """Slots, and numbers about each, by scale."""
        return tuple((x * y * z, self.width) for x, y, z in self.scales)

    @property
    def dim(self) -> int:
        """Numbers about all slots of all scales."""
        return sum(slots * width for slots, width in self.parts)

    def answers(self, batch: Mapping[str, Tensor], tokens: Tokens) -> list[Answers]:
        """What there is to say about each slot, by scale."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, dim]`` float32 in [0, 1], scale by scale, slot by slot."""
        return torch.cat([answer.values.flatten(2) for answer in self.answers(batch, tokens)], dim=-1)

    @torch.no_grad()
    def measure(self, batch: Mapping[str, Tensor], tokens: Tokens) -> list[tuple[Tensor, Tensor]]:
        """Where in each slot its points lie on average, and how many there are, by scale.

        Returns:
            ``[B, N, slots, 3]`` in [0, 1], x, y and z in units of the slot, 0.5 where it is empty; and int64
            ``[B, N, slots]``.
        """
        box, token, inside = self._by_box(tokens) if self.cells is None else self._by_cell(batch, tokens)
        return [_by_slot(box, token, inside, tokens.shape, ratio) for ratio in self.scales]

    def _by_cell(self, batch: Mapping[str, Tensor], tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """Each point's place in its cell ``[B, P, 3]``, from 0 to 1; its token; whether there is one."""
        assert self.cells is not None
        points = batch["points"][..., :3]
        index, inside = self.cells.index(points)
        real = valid_of(batch, "points")
        token, found = token_of(keys_of(self.cells, tokens), self.cells.key(index))
        place = self.cells.scaled(points) - index
        return place, token, inside & found if real is None else inside & found & real

    def _by_box(self, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """The same for the points that tokens hold, ``[B, N, k, 3]``."""
        points = relative(tokens, self.channels)
        place = (points.double() / _half(points) + 1) / 2
        token = torch.arange(tokens.shape[1], device=points.device)[:, None].expand(points.shape[:-1])
        return place, token, torch.ones_like(token, dtype=torch.bool)

    def places(self, within: Tensor, tokens: Tokens, scale: int = 0) -> Tensor:
        """From places in slots to places in the cloud.

        Args:
            within: ``[B, N, slots, 3]`` in units of the slot, as :meth:`measure` has them.
            tokens: whose slots; boxes of tokens that are no cells are known by the points they hold.
            scale: which of the scales.

        Returns:
            float64 ``[B, N, slots, 3]``, in units of the cloud.
        """
        x, y, z = self.scales[scale]
        axes = (torch.arange(n, device=within.device) for n in (z, y, x))
        slot = torch.cartesian_prod(*axes).view(-1, 3).flip(-1)
        box = (within.double() + slot) / torch.tensor((x, y, z), device=within.device)
        if self.cells is None:
            centre = tokens.position[..., :3].double() * UNIT
            half = _half(relative(tokens, self.channels)).double()
            return centre[:, :, None] + (2 * box - 1) * half
        size = torch.tensor(self.cells.size, dtype=torch.float64, device=within.device)
        return corners_of(self.cells, tokens)[:, :, None] + box * size


def _ratio(scale: Ratio) -> tuple[int, int, int]:
    if isinstance(scale, int) or len(scale) != 3 or any(n < 1 for n in scale):
        raise UserError(f"a scale is slots along x, y and z, 1 or more each, such as [2, 2, 2]; got {scale}")
    x, y, z = (int(n) for n in scale)
    return x, y, z


def _half(points: Tensor) -> Tensor:
    """Half the side of the cube around points ``[B, N, k, 3]``, ``[B, N, 1, 1]``."""
    return points.abs().amax((2, 3), keepdim=True).clamp(min=1e-12)


def _by_slot(
    box: Tensor, token: Tensor, inside: Tensor, shape: tuple[int, int], ratio: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """Mean place and count of the points of each slot, from their places in boxes and their tokens."""
    (b, n), slots = shape, ratio[0] * ratio[1] * ratio[2]
    most = torch.tensor(ratio, device=box.device)
    place = box * most
    index = torch.minimum(place.floor().long().clamp(min=0), most - 1)
    x, y, z = index.unbind(-1)
    slot = token * slots + (z * ratio[1] + y) * ratio[0] + x
    slot = torch.where(inside, slot, n * slots).flatten(1)
    within = ((place - index).clamp(0, 1) * _FINE).round().long().flatten(1, -2)
    within = torch.cat([within, torch.ones_like(within[..., :1])], dim=-1)
    total = torch.zeros(b, n * slots + 1, 4, dtype=torch.int64, device=box.device)
    total.scatter_add_(1, slot[..., None].expand_as(within), within)
    total = total[:, :-1].view(b, n, slots, 4)
    count = total[..., 3]
    mean = total[..., :3].double() / (count.clamp(min=1)[..., None] * _FINE)
    return torch.where(count[..., None] > 0, mean, 0.5).float(), count


class Centroid(_Subcells):
    """Mean place of the points in each slot of a token's box (GeoMAE, Tian et al. 2023, arXiv 2305.08808).

    In units of the slot, from its lower corner. Of an empty slot there is nothing to say: a system that asks
    for ``answers`` is told so, any other gets 0.5. The order is x, y, z, where the paper's code has z, y, x.

    Tokens that are cells have a box; all points of the cloud in it count. Any other token's box is the
    smallest cube around its centre that holds its points. A slot's number is ``(z * ry + y) * rx + x``.

    Args:
        scales: slots along x, y and z, for each scale.
        channels: numbers per point, from the tokenizer.
        cell_low: lower corner of the cells that tokens are, from the tokenizer; None for other tokens.
        cell_size: of a cell.
        cell_shape: cells along each axis.
    """

    width = 3

    @torch.no_grad()
    def answers(self, batch: Mapping[str, Tensor], tokens: Tokens) -> list[Answers]:
        """``[B, N, slots, 3]`` by scale, known where the slot holds points."""
        return [Answers(mean, count > 0) for mean, count in self.measure(batch, tokens)]


class Occupancy(_Subcells):
    """Which slots of a token's box hold points, 0 or 1 each (GeoMAE, Tian et al. 2023, arXiv 2305.08808).

    Tokens that are cells have a box; all points of the cloud in it count. Any other token's box is the
    smallest cube around its centre that holds its points. A slot's number is ``(z * ry + y) * rx + x``.

    Args:
        scales: slots along x, y and z, for each scale.
        channels: numbers per point, from the tokenizer.
        cell_low: lower corner of the cells that tokens are, from the tokenizer; None for other tokens.
        cell_size: of a cell.
        cell_shape: cells along each axis.
    """

    width = 1

    @torch.no_grad()
    def answers(self, batch: Mapping[str, Tensor], tokens: Tokens) -> list[Answers]:
        """``[B, N, slots, 1]`` by scale, always known."""
        counts = [count for _, count in self.measure(batch, tokens)]
        return [Answers((n > 0).float()[..., None], torch.ones_like(n, dtype=torch.bool)) for n in counts]
