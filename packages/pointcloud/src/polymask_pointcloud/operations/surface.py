"""Normals and curvature, by the principal axes of neighbourhoods."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from polymask_pointcloud.operations.neighbours import nearest, take


class Shape(NamedTuple):
    """Of neighbourhoods ``[...]``.

    Attributes:
        normal: unit vectors ``[..., 3]``, across the direction of least spread; the sign is arbitrary.
        curvature: ``[..., 3]``, the shares of the three directions in the squared spread, falling; they add
            up to 1. (1/2, 1/2, 0) is a plane, (1, 0, 0) a line, (1/3, 1/3, 1/3) as wide as long as high.
    """

    normal: Tensor
    curvature: Tensor


def local_shape(points: Tensor, valid: Tensor | None = None, centre: Tensor | None = None) -> Shape:
    """Principal axes of each set of points.

    The squared singular values of the centred points, 1e-9 added, as GeoMAE has them (Tian et al. 2023,
    arXiv 2305.08808). Sets of one point have curvature (1/3, 1/3, 1/3) and a normal of no meaning.

    Args:
        points: ``[..., n, 3]``.
        valid: bool ``[..., n]``, False on padding.
        centre: ``[..., 3]`` what to centre on; the mean of the points by default. Another centre adds a
            direction of spread that is not in the surface.

    Returns:
        float32, without gradient.
    """
    with torch.no_grad(), torch.autocast(points.device.type, enabled=False):
        points = points.double()
        if valid is None:
            valid = torch.ones(points.shape[:-1], dtype=torch.bool, device=points.device)
        real = valid[..., None]
        if centre is None:
            count = valid.sum(-1, keepdim=True).clamp(min=1)
            centre = torch.where(real, points, 0.0).sum(-2) / count
        offset = torch.where(real, points - centre.double()[..., None, :], 0.0)
        spread, axes = torch.linalg.eigh(offset.mT @ offset)
        spread = spread.clamp(min=0).flip(-1) + 1e-9
        return Shape(axes[..., 0].float(), (spread / spread.sum(-1, keepdim=True)).float())


def point_shape(points: Tensor, k: int = 16, valid: Tensor | None = None) -> Shape:
    """Normal and curvature at each point of clouds ``[B, N, 3]``, by its k nearest, itself among them."""
    _, index = nearest(points, points, k, valid)
    place = torch.arange(k, device=index.device)
    real = place < (points.shape[1] if valid is None else valid.sum(1)[:, None, None])
    return local_shape(take(points, index), real.expand(index.shape))
