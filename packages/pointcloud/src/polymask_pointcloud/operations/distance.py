"""How far one set of points is from another."""

from __future__ import annotations

import torch
from torch import Tensor

from polymask_pointcloud.operations.neighbours import nearest

_MANY = 512
"""Points of a set from which on searching is quicker than comparing all."""


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
    x, y = x.to(dtype), y.to(dtype)
    # which is nearest needs no gradient: it goes through the n + m distances that count, not all n * m
    there, back = _closest(x.detach(), y.detach(), x_valid, y_valid)
    x_real, y_real = _counted(x_valid, y_valid), _counted(y_valid, x_valid)
    return _mean(x - _pick(y, there), x_real, squared) + _mean(y - _pick(x, back), y_real, squared)


def _closest(x: Tensor, y: Tensor, x_valid: Tensor | None, y_valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """The nearest of the other set, int64 ``[..., n]`` and ``[..., m]``."""
    if x.shape[-1] == 3 and min(x.shape[-2], y.shape[-2]) >= _MANY:
        return _searched(x, y, y_valid), _searched(y, x, x_valid)
    # By differences, not by a product of matrices: exactly 0 between equal points, under autocast too. And
    # axis by axis: sums over a last axis of 3 are several times slower on a CPU.
    distance = x.new_zeros(*x.shape[:-1], y.shape[-2])
    for a, b in zip(x.movedim(-1, 0).contiguous(), y.movedim(-1, 0).contiguous(), strict=True):
        distance += (a[..., :, None] - b[..., None, :]).square_()
    if x_valid is not None:
        distance = distance.masked_fill(~x_valid[..., :, None], torch.inf)
    if y_valid is not None:
        distance = distance.masked_fill(~y_valid[..., None, :], torch.inf)
    # argmin over any but the last axis is ten times slower
    return distance.min(-1).indices, distance.min(-2).indices


def _searched(x: Tensor, y: Tensor, valid: Tensor | None) -> Tensor:
    # a prediction that is no number makes the distance none; it need not stop the search
    x_flat, y_flat = (z.nan_to_num().reshape(-1, *z.shape[-2:]) for z in (x, y))
    _, index = nearest(x_flat, y_flat, 1, None if valid is None else valid.reshape(-1, valid.shape[-1]))
    return index.view(x.shape[:-1])


def _counted(own: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Which points of a set have a nearest one: none where the other set is empty."""
    if other is None:
        return own
    some = other.any(-1, keepdim=True)
    return some if own is None else own & some


def _pick(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(-2, index[..., None].expand(*index.shape, x.shape[-1]))


def _mean(offset: Tensor, real: Tensor | None, squared: bool) -> Tensor:
    """Mean length of vectors ``[..., n, D]``, of the real ones of them."""
    if real is not None:
        offset = torch.where(real[..., None], offset, 0.0)
    length = offset.square().sum(-1)
    if not squared:
        # the root has no slope at 0; points that coincide pull nowhere
        length = torch.where(length > 0, length, 1.0).sqrt() * (length > 0)
    if real is None:
        return length.mean(-1)
    return length.sum(-1) / real.expand(length.shape).sum(-1).clamp(min=1)
