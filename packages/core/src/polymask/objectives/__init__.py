"""Scores of a prediction, all in float32 (or float64) and all a mean over what counts.

Each takes ``prediction`` and ``target`` ``[B, N, D]`` and an optional mask over the N sites.
With a mask, only hidden sites count and visible ones get a gradient of exactly 0; without one,
every site that was given counts (a decoder that predicts hidden sites alone gives none).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask.errors import UserError
from polymask.mask import Mask


def _pair(prediction: Tensor, target: Tensor, mask: Mask | None) -> tuple[Tensor, Tensor]:
    """Both in float32 (float64 stays); the target without gradient and with nothing at visible sites."""
    if prediction.shape != target.shape:
        raise ValueError(f"the prediction is {list(prediction.shape)}, its target {list(target.shape)}")
    return _wide(prediction), _wide(_hidden(target, mask)).detach()


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _hidden(target: Tensor, mask: Mask | None) -> Tensor:
    # A gradient of 0 times a NaN target is NaN, so a target that is undefined there must not be met.
    if mask is None:
        return target
    hidden = mask.hidden > 0
    return torch.where(hidden.reshape(hidden.shape + (1,) * (target.dim() - hidden.dim())), target, 0)


def _mean(loss_BN: Tensor, mask: Mask | None) -> Tensor:
    return loss_BN.mean() if mask is None else mask.mean(loss_BN)


class MSE:
    """Mean squared error."""

    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        x, y = _pair(prediction, target, mask)
        return _mean((x - y).square().mean(dim=-1), mask)


class L1:
    """Mean absolute error."""

    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        x, y = _pair(prediction, target, mask)
        return _mean((x - y).abs().mean(dim=-1), mask)


class SmoothL1:
    """Squared error below ``beta``, absolute above: ``0.5 d^2 / beta`` or ``|d| - beta / 2``.

    Args:
        beta: where the two meet, in units of the target.
    """

    def __init__(self, *, beta: float = 1.0) -> None:
        if beta <= 0:
            raise UserError(f"beta must be positive, got {beta}; for beta = 0 use core/l1")
        self.beta = beta

    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        x, y = _pair(prediction, target, mask)
        loss = F.smooth_l1_loss(x, y, reduction="none", beta=self.beta)
        return _mean(loss.mean(dim=-1), mask)


class Cosine:
    """One minus cosine similarity, for feature targets."""

    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        x, y = _pair(prediction, target, mask)
        return _mean(1 - F.cosine_similarity(x, y, dim=-1), mask)


class CrossEntropy:
    """Cross-entropy of class targets, int64 ``[B, N]``, given logits ``[B, N, classes]``.

    Args:
        label_smoothing: share of the probability spread over all classes, in [0, 1).
    """

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        if not 0 <= label_smoothing < 1:
            raise UserError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        loss = F.cross_entropy(
            _wide(prediction).transpose(1, 2),
            _hidden(target, mask),
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        return _mean(loss, mask)
