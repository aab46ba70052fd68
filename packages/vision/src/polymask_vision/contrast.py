"""A loss between the sites of one sample. No part: it needs several sites of a class to say anything."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask.mask import Mask


def site_contrast(features: Tensor, classes: Tensor, temperature: float = 0.25) -> Tensor:
    """Draws sites of one class together and those of different classes of the same sample apart.

    Supervised contrast (Khosla et al. 2020, arXiv 2004.11362) with the sites of a sample as its
    candidates: for each site, the mean over the other sites of its class of minus the logarithm of their
    share in the softmax of cosine similarities to all other sites. With m such sites it is at least
    log m, and log(N - 1) where all similarities are alike.

    Args:
        features: ``[B, N, D]``.
        classes: int64, broadcasting to ``[B, N]``.
        temperature: of the softmax.

    Returns:
        float32 scalar, a mean over all sites that have another of their class; 0 if none has.
    """
    unit = F.normalize(features.float(), dim=-1)
    with torch.autocast(features.device.type, enabled=False):
        logits = unit @ unit.transpose(1, 2) / temperature
    itself = torch.eye(features.shape[1], dtype=torch.bool, device=features.device)
    log_share = logits.masked_fill(itself, torch.finfo(logits.dtype).min).log_softmax(-1)
    together = (classes[:, :, None] == classes[:, None, :]) & ~itself
    count = together.sum(-1).expand(features.shape[:2])
    loss = -torch.where(together, log_share, 0.0).sum(-1) / count.clamp(min=1)
    return Mask(count > 0).mean(loss)
