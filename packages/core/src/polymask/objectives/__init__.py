"""Scores of a prediction, all in float32 (or float64) and all a mean over what counts.

Each takes ``prediction`` and ``target`` ``[B, N, D]`` and an optional mask over the N sites.
With a mask, only hidden sites count and visible ones get a gradient of exactly 0; without one,
every site that was given counts (a decoder that predicts hidden sites alone gives none).
``sites`` tells what each site costs, before the mean.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask.errors import UserError
from polymask.mask import Mask
from polymask.types import Positive


class SiteMean:
    """The mean of what each site costs; a subclass writes :meth:`sites`."""

    def sites(self, prediction: Tensor, target: Tensor) -> Tensor:
        """``[B, N, D]`` each to float32 ``[B, N]``, gradient to the prediction alone."""
        raise NotImplementedError

    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        """Their mean over hidden sites, or over all where there is no mask."""
        if mask is None:
            return self.sites(prediction, target).mean()
        return mask.mean(self.sites(prediction, _hidden(target, mask)))


def require_alike(prediction: Tensor, target: Tensor) -> None:
    """Refuse a target of another shape than the prediction has.

    Raises:
        UserError: it has one.
    """
    if prediction.shape != target.shape:
        raise UserError(
            f"values are compared one by one, and the prediction is {list(prediction.shape)}, its target "
            f"{list(target.shape)}; codes as target take core/cross-entropy"
        )


def _pair(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32 (float64 stays), the target without gradient."""
    require_alike(prediction, target)
    return _wide(prediction), _wide(target).detach()


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _hidden(target: Tensor, mask: Mask) -> Tensor:
    # A gradient of 0 times a NaN target is NaN, so a target that is undefined there must not be met.
    hidden = mask.hidden > 0
    return torch.where(hidden.reshape(hidden.shape + (1,) * (target.dim() - hidden.dim())), target, 0)


class MSE(SiteMean):
    """Mean squared error."""

    def sites(self, prediction: Tensor, target: Tensor) -> Tensor:
        x, y = _pair(prediction, target)
        return (x - y).square().mean(dim=-1)


class L1(SiteMean):
    """Mean absolute error."""

    def sites(self, prediction: Tensor, target: Tensor) -> Tensor:
        x, y = _pair(prediction, target)
        return (x - y).abs().mean(dim=-1)


class SmoothL1(SiteMean):
    """Squared error below ``beta``, absolute above: ``0.5 d^2 / beta`` or ``|d| - beta / 2``.

    Args:
        beta: where the two meet, in units of the target.
    """

    def __init__(self, *, beta: float = 1.0) -> None:
        if beta <= 0:
            raise UserError(f"beta must be positive, got {beta}; for beta = 0 use core/l1")
        self.beta = beta

    def sites(self, prediction: Tensor, target: Tensor) -> Tensor:
        x, y = _pair(prediction, target)
        return F.smooth_l1_loss(x, y, reduction="none", beta=self.beta).mean(dim=-1)


class Cosine(SiteMean):
    """One minus cosine similarity, for feature targets."""

    def sites(self, prediction: Tensor, target: Tensor) -> Tensor:
        return 1 - F.cosine_similarity(*_pair(prediction, target), dim=-1)


class BinaryCrossEntropy(SiteMean):
    """Cross-entropy of yes or no, for each number of a site: 0 or 1, or a probability, given its logit."""

    def sites(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Logits and answers, ``[B, N, D]`` each, to float32 ``[B, N]``."""
        x, y = _pair(prediction, target)
        return F.binary_cross_entropy_with_logits(x, y, reduction="none").mean(dim=-1)


class Dice(SiteMean):
    """One minus the overlap of a site's prediction and answer: a site is one object, not D separate numbers.

    ``1 - (2 sum p t + e) / (sum p^2 + sum t^2 + e)`` with p the sigmoid of the logits (Milletari et al. 2016,
    V-Net, arXiv 1606.04797): 0 where they agree, 1 where they are disjoint, whatever the size of the object.

    Args:
        smooth: e, which decides where both are empty.
    """

    def __init__(self, *, smooth: Positive = 1e-4) -> None:
        self.smooth = smooth

    def sites(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Logits and answers, ``[B, N, D]`` each, to float32 ``[B, N]``."""
        x, t = _pair(prediction, target)
        p = x.sigmoid()
        overlap = 2 * (p * t).sum(dim=-1) + self.smooth
        return 1 - overlap / (p.square().sum(dim=-1) + t.square().sum(dim=-1) + self.smooth)


class CrossEntropy(SiteMean):
    """Cross-entropy of class targets, int64 ``[B, N]``, given logits ``[B, N, classes]``.

    A site may have several classes, ``[B, N, J]`` given ``[B, N, J, classes]``: it costs their mean, so that
    more codebooks do not weigh more.

    Args:
        label_smoothing: share of the probability spread over all classes, in [0, 1).
    """

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        if not 0 <= label_smoothing < 1:
            raise UserError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def sites(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Logits ``[B, N, ..., classes]`` and ids ``[B, N, ...]`` to float32 ``[B, N]``."""
        if target.is_floating_point() or target.shape != prediction.shape[:-1]:
            places, kind = prediction.shape[:-1], "values" if target.is_floating_point() else "classes"
            raise UserError(
                f"cross-entropy tells a class at each of {list(places)} places, and the target is {kind} "
                f"{list(target.shape)}: choose a target of codes, or an objective of values, such as core/mse"
            )
        logits = _wide(prediction).flatten(0, -2)
        losses = F.cross_entropy(
            logits, target.flatten(), reduction="none", label_smoothing=self.label_smoothing
        ).view(target.shape)
        return losses if losses.dim() == 2 else losses.flatten(2).mean(-1)
