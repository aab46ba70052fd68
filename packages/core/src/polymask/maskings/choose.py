"""Exact counts and total orders: the integer arithmetic that every masking shares."""

from __future__ import annotations

import math
from typing import Literal, TypeVar

import torch
from torch import Tensor

from polymask.errors import UserError
from polymask.mask import Mask
from polymask.protocols import Request

Rounding = Literal["nearest", "up"]
Count = TypeVar("Count", int, Tensor)

ABOVE = 1 << 62
"""More than any random key of :func:`unique_keys`: added to a key, it sorts after all without."""

_SCALE = 40


def share(ratio: float, n: Count, rounding: Rounding = "nearest") -> Count:
    """``ratio * n``, rounded: halves up, or everything up.

    Integer arithmetic, so that a batch with padding and one without, and every device, agree, and
    that 0.7 of 45 is 32, although ``0.7 * 45`` falls just short of 31.5.

    Args:
        ratio: in [0, 1].
        n: a number, or int64 of any shape; below 2 ** 22.
        rounding: ``"nearest"`` or ``"up"``.
    """
    numerator = round(ratio * (1 << _SCALE))
    if rounding == "up":
        return (n * (numerator - 1) + (1 << _SCALE) - 1) >> _SCALE
    return (n * (numerator + 1) + (1 << (_SCALE - 1))) >> _SCALE


def hidden_count(ratio: float, sites: int, rounding: Rounding = "nearest") -> int:
    """How many of ``sites`` a ratio hides; see :func:`share`.

    Raises:
        UserError: nothing or everything would be hidden.
    """
    count = share(ratio, sites, rounding)
    if not 0 < count < sites:
        what = "everything" if count >= sites else "nothing"
        raise UserError(f"masking ratio {ratio} of {sites} sites hides {what}; choose another ratio")
    return count


def hidden_counts(ratio: float, valid: Tensor, rounding: Rounding = "nearest") -> Tensor:
    """How many of the real sites of each row a ratio hides, int64 ``[B]``.

    At least one is hidden and one stays visible wherever a row has two or more.
    """
    n = valid.sum(dim=1)
    return torch.minimum(share(ratio, n, rounding).clamp(min=1), (n - 1).clamp(min=0))


def check_ratio(ratio: float) -> float:
    """The ratio, if it lies strictly between 0 and 1."""
    if not 0 < ratio < 1:
        raise UserError(f"masking ratio must lie between 0 and 1, got {ratio}")
    return ratio


def score_of(request: Request, name: str) -> Tensor:
    """The evidence that a masking of this name goes by.

    Raises:
        UserError: there is none.
        ValueError: it is not one number per site.
    """
    score = request.score
    if score is None:
        raise UserError(
            f"{name} hides by score, and this system computes none; give it one (--score NAME, where the "
            "system has that slot) or use core/random"
        )
    if score.shape != (len(request.ids), request.sites):
        raise ValueError(f"score is {list(score.shape)}, expected [{len(request.ids)}, {request.sites}]")
    return score


def check_range(name: str, ends: tuple[float, float], what: str, most: float = math.inf) -> None:
    """Refuse a smallest and a largest of something that are not above 0, in that order.

    Raises:
        UserError: they are not.
    """
    low, high = ends
    if not 0 < low <= high <= most:
        limit = "" if most == math.inf else f" <= {most:g}"
        raise UserError(f"{name} must be two {what}, 0 < low <= high{limit}, got {low}, {high}")


def site_bits(n: int) -> int:
    """Bits that number ``n`` sites: the same for all n up to 4,096.

    Were it as few as n allows, a batch padded to another length would break ties otherwise.
    """
    return max((n - 1).bit_length(), 12)


def unique_keys(bits: Tensor, rank: Tensor | None = None, room: int = 0) -> Tensor:
    """Sort keys without ties: by ``rank`` where given, then at random.

    Args:
        bits: int64 ``[B, N]`` of :meth:`polymask.Step.bits`.
        rank: float ``[B, N]``; larger sorts later. NaN sorts last.
        room: lowest bits to leave 0, for a number of the caller's (only without ``rank``).

    Returns:
        int64 ``[B, N]``, distinct within a row, so that every device sorts them alike. Without
        ``rank`` they lie in [0, :data:`ABOVE`).
    """
    n = bits.shape[1]
    low = site_bits(n)
    site = torch.arange(n, device=bits.device)
    if rank is None:
        return (bits & (ABOVE - (1 << (low + room)))) | (site << room)
    # The bits of an IEEE float, read as an integer, sort like the float once negatives are flipped;
    # both zeros become 0. NaN has either sign, so it is placed by hand.
    pattern = rank.float().contiguous().view(torch.int32).long()
    ordered = torch.where(pattern < 0, -(pattern & 0x7FFFFFFF), pattern)
    ordered = ordered.masked_fill(rank.isnan(), 0x7FFFFFFF)
    return (ordered << 32) | (bits & (0x100000000 - (1 << low))) | site


def ranks(keys: Tensor) -> Tensor:
    """The place of each number within its row, int64 ``[B, N]``: 0 for the least."""
    order = keys.argsort(dim=1)
    place = torch.arange(keys.shape[1], device=keys.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, place)


def hide_last(keys: Tensor, count: int) -> Mask:
    """Hide the ``count`` sites of largest key in each row of distinct integers ``[B, N]``."""
    visible = keys.shape[1] - count
    threshold = keys.kthvalue(visible, dim=1, keepdim=True).values
    return Mask(keys > threshold, visible)


def hide_last_valid(keys: Tensor, counts: Tensor, valid: Tensor) -> Mask:
    """Hide the ``counts`` ``[B]`` real sites of largest key; padding stays visible and uncounted."""
    lowest = torch.iinfo(keys.dtype).min
    ranked = torch.where(valid, keys, lowest).sort(dim=1).values
    # counts of 0 hide nothing: the threshold is then the largest real key
    last_visible = (keys.shape[1] - 1 - counts)[:, None]
    threshold = ranked.gather(1, last_visible.clamp(min=0)).masked_fill(last_visible < 0, lowest)
    return Mask((keys > threshold) & valid, None, valid)


def places(keys: Tensor, valid: Tensor | None) -> Tensor:
    """Place of each site in the ranking, 0 for the highest rank, padding last."""
    if valid is not None:
        keys = torch.where(valid, keys, torch.iinfo(keys.dtype).min)
    order = keys.argsort(dim=1, descending=True)
    rising = torch.arange(keys.shape[1], device=keys.device).expand_as(order)
    return torch.empty_like(order).scatter(1, order, rising)


def cells_of(grid: tuple[int, ...] | None, cell: int) -> tuple[int, ...]:
    """Lengths of a grid in cells of ``cell`` sites along each axis.

    Raises:
        UserError: there is no grid, or the cells do not tile it.
    """
    if grid is None:
        raise UserError(f"cells of {cell} tokens need tokens on a grid, and these have none; use cell 1")
    if any(n % cell for n in grid):
        shape = " x ".join(map(str, grid))
        raise UserError(
            f"cells of {cell} tokens do not tile the token grid of {shape}: set the masking's option cell "
            f"(--masking.cell) to a divisor of {math.gcd(*grid)}, or change the size or the patches"
        )
    return tuple(n // cell for n in grid)
