"""How far one set of points is from another."""

from __future__ import annotations

import torch
from torch import Tensor


def chamfer(
    x: Tensor, y: Tensor, x_valid: Tensor | None = None, y_valid: Tensor | None = None, squared: bool = True
) -> Tensor:
    """Chamfer distance (Fan et al. 2017): mean distance to the nearest of the other set, both ways, added.

    Args:
        x: ``[..., n, D]``, any dimension D.
        y: ``[..., m, D]``.
        x_valid: bool ``[..., n]``, False on padding.
        y_valid: bool ``[..., m]``.
        squared: of squared distances; else of distances.

    Returns:
        ``[...]`` in float32 (float64 stays), with gradient to both; 0 where a set is empty.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    # by differences, not by a product of matrices: exactly 0 between equal points, under autocast too
    distance = (x.to(dtype)[..., :, None, :] - y.to(dtype)[..., None, :, :]).square().sum(-1)
    if x_valid is not None:
        distance = distance.masked_fill(~x_valid[..., :, None], torch.inf)
    if y_valid is not None:
        distance = distance.masked_fill(~y_valid[..., None, :], torch.inf)
    return _mean(distance.amin(-1), squared) + _mean(distance.amin(-2), squared)


def _mean(least: Tensor, squared: bool) -> Tensor:
    """Mean over the last axis of what is finite: padding, and the rest of an empty pair, are not."""
    real = least.isfinite()
    least = torch.where(real, least, 0.0)
    if not squared:
        # the root has no slope at 0; points that coincide pull nowhere
        least = torch.where(least > 0, least, 1.0).sqrt() * (least > 0)
    return least.sum(-1) / real.sum(-1).clamp(min=1)
