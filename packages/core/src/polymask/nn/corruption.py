"""Words as tokens: which of them may be hidden, and what stands in their place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polymask.errors import UserError
from polymask.mask import Mask
from polymask.step import Step
from polymask.tokens import Tokens

STREAM = -1
"""Stream of the noise drawn here; those of masks count up from 0."""


def maskable(tokens: Tokens, special_ids: Sequence[int]) -> Tensor:
    """Which tokens may be hidden: content, neither special nor padding. Bool ``[B, N]``."""
    assert tokens.ids is not None
    content = torch.ones_like(tokens.ids, dtype=torch.bool) if tokens.valid is None else tokens.valid
    for special in special_ids:  # one comparison each: a tensor of them would be copied to the device
        content = content & (tokens.ids != special)
    return content


def corrupt(
    ids: Tensor,
    mask: Mask,
    step: Step,
    samples: Tensor,
    *,
    mask_id: int,
    vocabulary: int,
    special_ids: Sequence[int] = (),
    shares: Sequence[float] = (0.8, 0.1, 0.1),
    stream: int = STREAM,
) -> Tensor:
    """Hidden tokens replaced as in BERT (Devlin et al. 2018, arXiv 1810.04805).

    Each hidden token by itself becomes, with the given chances, the mask token, a token drawn uniformly
    from the vocabulary without its special ids, or stays what it was. No other token changes.

    Args:
        ids: int64 ``[B, N]``.
        mask: which are hidden; a hard mask.
        step: the source of chance.
        samples: int64 ``[B]`` sample ids, see :func:`polymask.sample_ids`.
        mask_id: id of the mask token.
        vocabulary: how many ids there are.
        special_ids: ids that replace nothing.
        shares: chances of the mask token, of a random one, and of none; they sum to 1.
        stream: tells apart several draws of one step.

    Returns:
        int64 ``[B, N]``.

    Raises:
        UserError: shares that are no chances.
    """
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise UserError(f"shares of masked, random and kept tokens must sum to 1, got {tuple(shares)}")
    special = sorted(set(special_ids))
    bits = step.bits(samples, ids.shape[1], stream)
    # the upper bits choose what happens, the lower 40 which id: the two are independent
    chance = ((bits >> 40) & 0xFFFFFF).double() * 2.0**-24
    random = (bits & 0xFFFFFFFFFF) % (vocabulary - len(special))
    for i in special:  # in rising order, so that the k-th id that is not special comes out
        random = random + (random >= i)
    replaced = torch.where(chance < shares[0], mask_id, random)
    return torch.where(mask.hidden & (chance < shares[0] + shares[1]), replaced, ids)
