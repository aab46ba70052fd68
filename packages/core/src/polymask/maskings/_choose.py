"""Hide an exact number of sites per row by rank, the same on every device."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from polymask.errors import UserError
from polymask.mask import Mask

Rounding = Literal["nearest", "up"]


def hidden_count(ratio: float, sites: int, rounding: Rounding = "nearest") -> int:
    """How many of ``sites`` a ratio hides: rounded, since ``int(100 * (1 - 0.9))`` is 9.

    Raises:
        UserError: nothing or everything would be hidden.
    """
    product = ratio * sites
    count = math.ceil(product - 1e-9) if rounding == "up" else math.floor(product + 0.5)
    if not 0 < count < sites:
        what = "everything" if count >= sites else "nothing"
        raise UserError(f"masking ratio {ratio} of {sites} sites hides {what}; choose another ratio")
    return count


def check_ratio(ratio: float) -> float:
    """The ratio, if it lies strictly between 0 and 1."""
    if not 0 < ratio < 1:
        raise UserError(f"masking ratio must lie between 0 and 1, got {ratio}")
    return ratio


def unique_keys(bits: Tensor, rank: Tensor | None = None) -> Tensor:
    """Sort keys without ties: by ``rank`` where given, then at random.

    Args:
        bits: int64 ``[B, N]`` of :meth:`polymask.Step.bits`.
        rank: float ``[B, N]``; larger sorts later. NaN sorts last.

    Returns:
        int64 ``[B, N]``, distinct within a row, so that every device sorts them alike.
    """
    n = bits.shape[1]
    low = (1 << max(n - 1, 1).bit_length()) - 1
    site = torch.arange(n, device=bits.device)
    if rank is None:
        return (bits & (torch.iinfo(torch.int64).max - low)) | site
    # The bits of an IEEE float, read as an integer, sort like the float once negatives are flipped.
    # Adding 0.0 turns -0.0 into 0.0, which must tie.
    pattern = (rank.float() + 0.0).contiguous().view(torch.int32).long()
    ordered = torch.where(pattern < 0, -(pattern & 0x7FFFFFFF), pattern)
    return (ordered << 32) | (bits & (0xFFFFFFFF - low)) | site


def hide_last(keys: Tensor, count: int) -> Mask:
    """Hide the ``count`` sites of largest key in each row of int64 ``[B, N]`` distinct keys."""
    visible = keys.shape[1] - count
    threshold = keys.kthvalue(visible, dim=1, keepdim=True).values
    return Mask(keys > threshold, visible)


def hide_last_valid(keys: Tensor, valid: Tensor, ratio: float) -> Mask:
    """Hide a share of the real sites of each row; padding stays visible and uncounted.

    At least one real site is hidden and one stays visible wherever a row has two or more.
    """
    largest = torch.iinfo(torch.int64).max
    n = valid.sum(dim=1)
    count = (ratio * n + 0.5).floor().long()
    count = torch.minimum(count.clamp(min=1), (n - 1).clamp(min=0))
    ranked = torch.where(valid, keys, largest).sort(dim=1).values
    last_visible = (n - count - 1).clamp(min=0)
    threshold = ranked.gather(1, last_visible[:, None])
    return Mask((keys > threshold) & valid & (n > 0)[:, None], None, valid)
