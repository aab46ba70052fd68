"""Objectives of rank: what counts is how the sites of a sample compare, not what they are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask.mask import Mask
from polymask.objectives import require_alike


class Pairwise:
    """Cross-entropy of which of two sites of a sample has the larger target (HPM's relative loss).

    The prediction is a score, of which differences alone matter; guessing costs ln 2. Burges et al.
    2005 (RankNet); among patches, by their loss: Wang et al. 2023 (HPM, arXiv 2304.05919). Pairs
    of equal targets do not count. N sites have N^2 pairs, so this is for hundreds of sites, not more.
    """

    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        """``[B, N, D]`` each; the D numbers of a site are ranked each by itself."""
        x, y, real = _hidden(prediction, target, mask)
        both = real[:, :, None] & real[:, None, :]
        larger = (y[:, :, None] > y[:, None, :]) & both
        # minus log sigmoid of how far the site of larger target leads
        return Mask(larger).mean(F.softplus(x[:, None, :] - x[:, :, None]))


class StandardisedMSE:
    """Squared error against targets standardised within each sample (HPM's absolute loss).

    Mean 0 and unbiased variance 1 over the hidden sites, 1e-6 inside the root.
    """

    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        """``[B, N, D]`` each; each of the D numbers is standardised by itself."""
        x, y, real = _hidden(prediction, target, mask)
        count = real.sum(dim=1, keepdim=True)
        deviation = torch.where(real, y - y.sum(dim=1, keepdim=True) / count.clamp(min=1), 0.0)
        variance = deviation.square().sum(dim=1, keepdim=True) / (count - 1).clamp(min=1)
        return Mask(real).mean((x - deviation / (variance + 1e-6).sqrt()).square())


def _hidden(prediction: Tensor, target: Tensor, mask: Mask | None) -> tuple[Tensor, Tensor, Tensor]:
    """Both in float32 and 0 where nothing is hidden, and where something is: bool ``[B, N, D]``."""
    require_alike(prediction, target)
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    real = torch.ones_like(target, dtype=torch.bool)
    if mask is not None:
        real = (mask.hidden > 0)[..., None].expand_as(target)
    x, y = prediction.to(dtype), target.detach().to(dtype)
    return torch.where(real, x, 0.0), torch.where(real, y, 0.0), real
