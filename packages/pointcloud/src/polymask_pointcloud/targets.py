"""What is predicted about the points of a token: where they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from polymask import Mask, Tokens, UserError
from polymask.protocols import Target
from polymask.types import Count, Fact
from polymask_pointcloud.boxes import Triple, cells_of, relative
from polymask_pointcloud.slots import Boxes, Given, Ratio, Slots, ratio_of
from polymask_pointcloud.tokenizers import UNIT

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

    A target that speaks of parts has ``parts``, this, and ``answers(given)``, an :class:`Answers` for each
    scale of what is :class:`Given`; any other speaks of whole tokens and always has an answer.
    """
    whole = ((1, target.dim),)
    parts: tuple[tuple[int, int], ...] = getattr(target, "parts", whole)
    return parts


def answers_of(target: Target, given: Given) -> list[Answers]:
    """What a target says, by scale; see :func:`parts_of`."""
    if hasattr(target, "answers"):
        answers: list[Answers] = target.answers(given)
        return answers
    values = target(given.batch, given.tokens)[:, :, None]
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

    def __init__(self, *, in_dim: Fact[Count] = 96, channels: Fact[Count] = 3) -> None:
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
        channels: Fact[Count] = 3,
        cell_low: Fact[Triple | None] = None,
        cell_size: Fact[Triple | None] = None,
        cell_shape: Fact[Sequence[int] | None] = None,
    ) -> None:
        super().__init__()
        boxes = Boxes(cells_of(cell_low, cell_size, cell_shape), channels)
        self.scales = tuple(Slots(boxes, ratio_of(scale)) for scale in scales)
        if not self.scales:
            raise UserError("scales is a list of slots along x, y and z, such as [[2, 2, 2]]; it is empty")

    @property
    def parts(self) -> tuple[tuple[int, int], ...]:
        """Slots, and numbers about each, by scale."""
        return tuple((math.prod(slots.ratio), self.width) for slots in self.scales)

    @property
    def dim(self) -> int:
        """Numbers about all slots of all scales."""
        return sum(slots * width for slots, width in self.parts)

    def answers(self, given: Given) -> list[Answers]:
        """What there is to say about each slot, by scale."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, dim]`` float32 in [0, 1], scale by scale, slot by slot."""
        told = self.answers(Given(batch, tokens))
        return torch.cat([answer.values.flatten(2) for answer in told], dim=-1)


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
    def answers(self, given: Given) -> list[Answers]:
        """``[B, N, slots, 3]`` by scale, known where the slot holds points."""
        return [Answers(mean, count > 0) for mean, count in map(given.find, self.scales)]

    def places(self, within: Tensor, tokens: Tokens, scale: int = 0) -> Tensor:
        """From places in the slots of a scale to places in the cloud, see :meth:`Slots.places`."""
        return self.scales[scale].places(within, tokens)


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
    def answers(self, given: Given) -> list[Answers]:
        """``[B, N, slots, 1]`` by scale, always known."""
        counts = [count for _, count in map(given.find, self.scales)]
        return [Answers((n > 0).float()[..., None], torch.ones_like(n, dtype=torch.bool)) for n in counts]
