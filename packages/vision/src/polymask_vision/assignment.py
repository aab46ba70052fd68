"""Which anchor learns which instance: by the statistics of each instance, or by fixed overlaps.

Shapes: B images, A anchors of all levels, G instances of an image, C candidates of an instance.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou

NEGATIVE, IGNORED = -1, -2
"""Anchors of no instance, and those that are neither."""


def adaptive_assignment(
    anchors_A4: Tensor,
    levels: Sequence[int],
    boxes_BG4: Tensor,
    valid_BG: Tensor,
    *,
    nearest: int = 9,
    least: int = 4,
) -> Tensor:
    """The instance of each anchor, int64 ``[B, A]``, or -1: every instance gets enough anchors, however long.

    Candidates of an instance are the anchors of each level nearest to its centre. Positive are those whose
    overlap reaches the mean plus the standard deviation (of the sample) of its candidates (Zhang et al. 2020,
    ATSS, arXiv 1912.02424), and at least its best few, of equal overlap the nearest. An anchor that several
    claim goes to the largest overlap, and who loses one takes the next, until nobody has to, or for as many
    rounds as there are candidates. So an instance has fewer only where others leave it no candidate. There is
    no band of anchors that are ignored.

    Args:
        anchors_A4: left, top, right, bottom.
        levels: number of anchors of each level.
        boxes_BG4: of the instances.
        valid_BG: False on padding.
        nearest: candidates per level.
        least: anchors that every instance gets.
    """
    overlap_BGA = box_iou(boxes_BG4, anchors_A4.expand(len(boxes_BG4), -1, -1))
    apart_BGA = (_centres(boxes_BG4)[:, :, None] - _centres(anchors_A4)).norm(dim=-1)
    chosen, start = [], 0
    for count in levels:
        near = apart_BGA[..., start : start + count].topk(min(nearest, count), largest=False).indices
        chosen.append(near + start)
        start += count
    chosen_BGC = torch.cat(chosen, dim=-1)
    # the largest overlap first, and of equal ones the nearest
    near = apart_BGA.gather(-1, chosen_BGC).argsort(dim=-1, stable=True)
    chosen_BGC = chosen_BGC.gather(-1, near)
    overlap_BGC = overlap_BGA.gather(-1, chosen_BGC)
    overlap_BGC, best = overlap_BGC.sort(dim=-1, descending=True, stable=True)
    chosen_BGC = chosen_BGC.gather(-1, best)
    bound_BG1 = overlap_BGC.mean(-1, keepdim=True) + overlap_BGC.std(-1, keepdim=True)
    enough_BGC = (overlap_BGC >= bound_BG1) & (overlap_BGC > 0)  # of a tiny instance all may be 0
    left_BGC = valid_BG[..., None].expand_as(enough_BGC)
    held_BA = torch.full(apart_BGA.shape[::2], NEGATIVE, device=anchors_A4.device)
    for _ in range(chosen_BGC.shape[-1]):
        claims_BGC = left_BGC & (enough_BGC | (left_BGC.cumsum(-1) <= least))
        held_BA = _awarded(claims_BGC, chosen_BGC, overlap_BGC, len(anchors_A4))
        own = torch.arange(held_BA.shape[0], device=held_BA.device)[:, None, None]
        mine = held_BA[own, chosen_BGC] == torch.arange(claims_BGC.shape[1], device=held_BA.device)[:, None]
        left_BGC = left_BGC & (mine | ~claims_BGC)
    return held_BA


def overlap_assignment(
    anchors_A4: Tensor, boxes_BG4: Tensor, valid_BG: Tensor, *, high: float = 0.7, low: float = 0.3
) -> Tensor:
    """The instance of each anchor, int64 ``[B, A]``: -1 below ``low``, -2 between (Ren et al. 2015).

    The best anchor of each instance is positive whatever its overlap, as are those equal to it; it learns the
    instance that it overlaps most.

    Args:
        anchors_A4: left, top, right, bottom.
        boxes_BG4: of the instances.
        valid_BG: False on padding.
        high: overlap from which an anchor is positive.
        low: overlap below which it is negative.
    """
    overlap_BGA = box_iou(boxes_BG4, anchors_A4.expand(len(boxes_BG4), -1, -1))
    overlap_BGA = overlap_BGA.masked_fill(~valid_BG[..., None], -1)
    most_BA, of_BA = overlap_BGA.max(dim=1)
    found_BA = torch.where(most_BA >= high, of_BA, torch.where(most_BA < low, NEGATIVE, IGNORED))
    best_BGA = (overlap_BGA == overlap_BGA.amax(-1, keepdim=True)) & valid_BG[..., None]
    return torch.where(best_BGA.any(1), of_BA, found_BA)


def _awarded(claims_BGC: Tensor, chosen_BGC: Tensor, overlap_BGC: Tensor, anchors: int) -> Tensor:
    """Who gets each anchor that is claimed, ``[B, A]``: the largest overlap, of equal ones the first."""
    b, g, _ = claims_BGC.shape
    where = chosen_BGC.flatten(1)
    said = overlap_BGC.masked_fill(~claims_BGC, -1).flatten(1)
    most_BA = said.new_full((b, anchors), -1).scatter_reduce(1, where, said, "amax")
    wins = claims_BGC.flatten(1) & (said == most_BA.gather(1, where))
    number = torch.arange(g, device=where.device)[:, None].expand_as(claims_BGC[0]).flatten().expand_as(where)
    first_BA = torch.full_like(most_BA, g, dtype=torch.int64).scatter_reduce(
        1, where, number.masked_fill(~wins, g), "amin"
    )
    return first_BA.masked_fill(first_BA == g, NEGATIVE)


def _centres(boxes: Tensor) -> Tensor:
    """``[..., 2]``."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2
