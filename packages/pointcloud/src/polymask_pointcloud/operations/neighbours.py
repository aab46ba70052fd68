"""Which points lie near which places."""

from __future__ import annotations

import torch
from torch import Tensor

from polymask_pointcloud.operations.trees import nearest_by_tree

_EXACT = "donot_use_mm_for_euclid_dist"
"""Distances by matrix products lose digits where points are close, and order neighbours by device."""

_AT_ONCE = 1 << 26
"""Distances held in memory at a time."""


def nearest(query: Tensor, points: Tensor, k: int, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k nearest points of each place.

    By k-d trees on a CPU, by all distances elsewhere. Points equally far, to rounding, come in any order.

    Args:
        query: ``[B, M, 3]``, finite.
        points: ``[B, N, 3]``, finite.
        k: how many.
        valid: bool ``[B, N]``, at least one True per row.

    Returns:
        Distances ``[B, M, k]``, rising, and indices int64 ``[B, M, k]``, without gradient. Where a row has
        fewer than k real points, the nearest fills up.
    """
    query, points = query.detach().float(), points.detach().float()
    search = nearest_by_tree if points.device.type == "cpu" else nearest_of_all
    found, index = search(query, points, min(k, points.shape[1]), valid)
    if k > points.shape[1]:
        missing = (*index.shape[:-1], k - points.shape[1])
        found = torch.cat([found, found[..., :1].expand(missing)], dim=-1)
        index = torch.cat([index, index[..., :1].expand(missing)], dim=-1)
    if valid is not None:
        index = torch.where(found.isinf(), index[..., :1], index)
        found = torch.where(found.isinf(), found[..., :1], found)
    return found, index


def nearest_of_all(query: Tensor, points: Tensor, k: int, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """As :func:`nearest_by_tree`, by all distances, on any device."""
    few = max(_AT_ONCE // max(len(points) * points.shape[1], 1), 1)
    parts = []
    for part in torch.split(query, few, dim=1):
        with torch.autocast(points.device.type, enabled=False):
            distance = torch.cdist(part, points, compute_mode=_EXACT)
        if valid is not None:
            distance = distance.masked_fill(~valid[:, None], torch.inf)
        parts.append(distance.topk(k, dim=-1, largest=False))
    return torch.cat([part.values for part in parts], dim=1), torch.cat(
        [part.indices for part in parts], dim=1
    )


def ball(
    query: Tensor, points: Tensor, radius: float, k: int, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The nearest points within a radius of each place, at most k.

    PointNet++ (Qi et al. 2017, arXiv 1706.02413) takes the first k in the order of the cloud; these are the
    nearest, so that the order of points does not matter.

    Args:
        query: ``[B, M, 3]``.
        points: ``[B, N, 3]``.
        radius: inclusive.
        k: how many, at most.
        valid: bool ``[B, N]``, at least one True per row.

    Returns:
        Indices int64 ``[B, M, k]``, the nearest first, which also fills up; and bool ``[B, M, k]``, which of
        them are within the radius, each once.
    """
    distance, index = nearest(query, points, k, valid)
    inside = distance <= radius
    place = torch.arange(k, device=index.device)
    inside &= place < (points.shape[1] if valid is None else valid.sum(1)[:, None, None])
    return torch.where(inside, index, index[..., :1]), inside


def take(x: Tensor, index: Tensor) -> Tensor:
    """Rows of each sample by index: ``[B, N, C]`` and int64 ``[B, ...]`` to ``[B, ..., C]``."""
    b, n, c = x.shape
    start = torch.arange(b, device=x.device).view(-1, *(1,) * (index.dim() - 1)) * n
    return x.reshape(b * n, c).index_select(0, (index + start).flatten()).view(*index.shape, c)
