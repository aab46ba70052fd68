"""The blocks that see mask tokens, run one by one, and how mask tokens change on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask.mask import Mask


@dataclass(frozen=True, eq=False)
class Trunk:
    """A forward pass that stopped where mask tokens stand at hidden sites and no block has run yet.

    Whoever goes on runs the blocks, in between or inside as it likes, and hands the output of the
    last one to ``losses`` or ``pictures``.

    Args:
        mask: what is hidden; its hidden sites hold mask tokens.
        embedded: ``[B, N, D]`` the sites before positions are added, one vector at all hidden ones.
        x: ``[B, prefix + N, D]`` what the first block gets.
        bias: what the blocks add to attention logits: bool (False where attention must not go) or
            float, broadcasting to ``[B, heads, prefix + N, prefix + N]``; None for nothing.
        prefix: how many tokens of no place lead the sequence.
        blocks: in order, each called as ``block(x, attn_mask=bias) -> x``.
        losses: the output of the last block to the terms of ``System.forward``.
        pictures: the same to the columns of ``System.pictures``.
    """

    mask: Mask
    embedded: Tensor
    x: Tensor
    bias: Tensor | None
    prefix: int
    blocks: Sequence[Callable[..., Tensor]]
    losses: Callable[[Tensor], dict[str, Tensor]]
    pictures: Callable[[Tensor], dict[str, Any]]

    def states(self) -> list[Tensor]:
        """The output of each block, ``[B, prefix + N, D]``."""
        x, states = self.x, []
        for block in self.blocks:
            x = block(x, attn_mask=self.bias)
            states.append(x)
        return states


def profile(trunk: Trunk, temperature: float = 0.1) -> Tensor:
    """:func:`heterogeneity` at the embedding and behind each block, float32 ``[blocks + 1]``."""
    sites = [trunk.embedded, *(x[:, trunk.prefix :] for x in trunk.states())]
    return torch.stack([heterogeneity(x, trunk.mask, temperature) for x in sites])


def heterogeneity(x_BND: Tensor, mask: Mask, temperature: float = 0.1) -> Tensor:
    """How unlike every visible token hidden ones are: 1 where none is nearer than another, 0 where one is.

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


def add_bias(bias: Tensor | None, more: Tensor) -> Tensor:
    """One attention bias on top of another.

    Args:
        bias: bool, float or None, as :class:`Trunk` has it.
        more: float, of the full batch.
    """
    if bias is None:
        return more
    if bias.dtype == torch.bool:
        return torch.where(bias, more, -torch.inf)
    return more + bias.to(more.dtype)
