"""Scores of a prediction, all in float32 and all a mean over what counts.

Each takes ``prediction`` and ``target`` ``[B, N, D]`` and an optional mask over the N sites.
With a mask, only hidden sites count and visible ones get a gradient of exactly 0; without one,
every site that was given counts (a decoder that predicts hidden sites alone gives none).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from polymask.mask import Mask


def _mean(loss_BN: Tensor, mask: Mask | None) -> Tensor:
    return loss_BN.mean() if mask is None else mask.mean(loss_BN)


class MSE:
    """Mean squared error."""

    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        return _mean((prediction.float() - target.float()).square().mean(dim=-1), mask)


class L1:
    """Mean absolute error."""

    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        return _mean((prediction.float() - target.float()).abs().mean(dim=-1), mask)


class SmoothL1:
    """Squared error below ``beta``, absolute above: ``0.5 d^2 / beta`` or ``|d| - beta / 2``.

    Args:
        beta: where the two meet, in units of the target.
    """

    def __init__(self, *, beta: float = 1.0) -> None:
        if beta <= 0:
            raise ValueError(f"beta must be positive, got {beta}; for beta = 0 use core/l1")
        self.beta = beta

    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        loss = F.smooth_l1_loss(prediction.float(), target.float(), reduction="none", beta=self.beta)
        return _mean(loss.mean(dim=-1), mask)


class Cosine:
    """One minus cosine similarity, for feature targets."""

    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        return _mean(1 - F.cosine_similarity(prediction.float(), target.float(), dim=-1), mask)


class CrossEntropy:
    """Cross-entropy of class targets, int64 ``[B, N]``, given logits ``[B, N, classes]``.

    Args:
        label_smoothing: share of the probability spread over all classes, in [0, 1).
    """

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        loss = F.cross_entropy(
            prediction.float().transpose(1, 2),
            target,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        return _mean(loss, mask)
