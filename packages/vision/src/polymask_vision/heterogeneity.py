"""How unlike visible tokens mask tokens are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Mask


def heterogeneity(x_BND: Tensor, mask: Mask, temperature: float = 0.1) -> Tensor:
    """How unlike all visible tokens the hidden ones are: 1 if all are equally near, 0 if one is nearest.

    The entropy of each hidden token's softmax over its cosine similarities to the visible tokens of
    its sample, over the logarithm of their number, so that masking ratios compare. A measure of
    this kind is Choi et al.'s (2024, arXiv 2404.08330); that it is this one is unverified.

    Args:
        x_BND: ``[B, N, D]`` states of all sites, tokens of no place left out. Gradient reaches those
            of hidden sites alone.
        mask: bool; padding is neither hidden nor visible.
        temperature: of the softmax.

    Returns:
        float32 scalar in [0, 1], a mean over all hidden sites; 0 for one visible token alone.

    Raises:
        ValueError: a soft mask.
    """
    if mask.hidden.dtype != torch.bool:
        raise ValueError("heterogeneity needs a mask of bool: a site is a mask token or it is none")
    visible = mask.invert().hidden
    unit = F.normalize(x_BND.float(), dim=-1)
    with torch.autocast(x_BND.device.type, enabled=False):
        cosine = unit @ unit.detach().transpose(1, 2)
    lowest = torch.finfo(cosine.dtype).min
    logits = (cosine / temperature).masked_fill(~visible[:, None], lowest)
    # the finite stand-in for minus infinity keeps 0 * log 0, and its gradient, at 0
    entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)
    most = visible.sum(1, keepdim=True).clamp(min=2).log()
    return mask.mean(entropy / most)
