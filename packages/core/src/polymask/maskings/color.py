"""Thresholded noise of a colour."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from polymask.errors import UserError
from polymask.maskings.choose import check_ratio, unique_keys
from polymask.maskings.ranking import Ranking
from polymask.protocols import Request

Colour = Literal["white", "red", "blue", "green", "purple"]

WIDTHS: dict[str, tuple[float, ...]] = {
    "white": (),
    "red": (2.0,),
    "blue": (1.0,),
    "green": (1.0, 2.0),
    "purple": (1.0, 2.0),
}
"""Standard deviations of the Gaussians in sites, where none are given."""

_NOISE = 16
_LONGEST = 64


class Color(Ranking):
    """Hide the sites where filtered white noise is largest (Hinojosa et al. 2024, arXiv 2407.13036).

    With W white noise and G_s a Gaussian blur of standard deviation s, the colours are

    - white: W, which is uniformly random masking;
    - red, low frequencies, one large hole: G_s W;
    - blue, high frequencies, evenly spread sites: W - G_s W;
    - green, a band between, blobs of one size: G_s W - G_t W, with s < t;
    - purple, all but that band: W - (G_s W - G_t W).

    The paper cuts windows from a stored bank of noise on a larger canvas. Here each sample gets noise of
    its own, on the grid itself, whose borders join (that of a sequence where the sample ends): no window
    repeats and every site is exactly equally likely to be hidden. (Among samples padded along several
    axes, sites beside the padding differ a little.)

    Args:
        ratio: share of sites to hide, in (0, 1).
        color: ``"white"``, ``"red"``, ``"blue"``, ``"green"`` (the paper's best) or ``"purple"``.
        sigma: standard deviation of the blur in sites, two of them for green and purple; by default
            red 2, blue 1, green and purple (1, 2). The paper's values are not published.
        then: colours that take over later, each with the share of the run from which on it holds,
            e.g. ``[(0.67, "blue"), (0.83, "red")]``; they have their default widths.
    """

    def __init__(
        self,
        *,
        ratio: float = 0.75,
        color: Colour = "green",
        sigma: float | Sequence[float] | None = None,
        then: Sequence[tuple[float, Colour]] = (),
    ) -> None:
        starts = [0.0, *(start for start, _ in then)]
        if any(a >= b for a, b in itertools.pairwise([*starts, 1.0])):
            raise UserError(f"then must name rising shares of the run between 0 and 1, got {list(then)}")
        self.ratio = check_ratio(ratio)
        self.colors = [(0.0, _blurs(color, sigma))]
        self.colors += [(float(start), _blurs(later, None)) for start, later in then]

    def rank(self, request: Request) -> Tensor:
        """Sites by the filtered noise at them."""
        grid = request.grid
        if grid is None:
            raise UserError("core/color filters noise on a grid, and these tokens have none; use core/random")
        bits = request.step.bits(request.ids, request.sites, request.stream)
        white = ((bits >> (64 - _NOISE)) & ((1 << _NOISE) - 1)).double().view(-1, *grid)
        ends = request.valid if len(grid) == 1 else None
        progress = request.step.progress
        blurs = next(blurs for start, blurs in reversed(self.colors) if progress >= start)
        return unique_keys(bits, sum_of(blurs, white, ends).flatten(1))


Blurs = tuple[tuple[int, float], ...]
"""A sum of blurs of the same noise: sign and standard deviation of each, 0 for none."""


def _blurs(color: str, sigma: float | Sequence[float] | None) -> Blurs:
    if color not in get_args(Colour):
        raise UserError(f"color={color!r}: choose one of {', '.join(get_args(Colour))}")
    given = WIDTHS[color] if sigma is None else (sigma,) if isinstance(sigma, int | float) else tuple(sigma)
    if len(given) != len(WIDTHS[color]):
        raise UserError(f"{color} noise takes {len(WIDTHS[color])} values of sigma, got {sigma!r}")
    if any(s <= 0 for s in given) or sorted(set(given)) != list(given):
        raise UserError(f"sigma must be positive, and two of them must rise, got {sigma!r}")
    signs = {"white": (1,), "red": (1,), "blue": (1, -1), "green": (1, -1), "purple": (1, -1, 1)}[color]
    plain = (0.0,) * (len(signs) - len(given))
    return tuple(zip(signs, (*plain, *given), strict=True))


def sum_of(blurs: Blurs, white: Tensor, ends: Tensor | None = None) -> Tensor:
    """Filtered noise, the same to the bit on every device and in every batch.

    All numbers are whole and below 2 ** 53, where float64 adds and multiplies exactly, in any order.

    Args:
        blurs: the filter.
        white: float64 ``[B, *grid]``, whole numbers in [0, 2 ** 16).
        ends: bool ``[B, sites]`` of a grid of one axis, False on padding: the real sites of each row
            form a ring. Without it all sites do, along each axis.

    Returns:
        float64 ``[B, *grid]``.
    """
    axes = white.dim() - 1
    # sixteen bits of noise and two for the sum leave 35 to the weights of all axes
    bits = min(35 // axes, 24)
    total = torch.zeros_like(white)
    for sign, sigma in blurs:
        blurred = white
        for axis in range(1, axes + 1):
            blurred = _blur(blurred, axis, taps(sigma, bits), ends)
        total = total + sign * blurred
    return total


def _blur(x: Tensor, axis: int, weights: tuple[int, ...], ends: Tensor | None) -> Tensor:
    """Circular convolution along an axis, as a product with a band matrix per block of the axis."""
    n, reach = x.shape[axis], len(weights) - 1
    length = min(n, _LONGEST)
    blocks = -(-n // length)
    site = torch.arange(-(reach // 2), blocks * length + reach - reach // 2, device=x.device)
    x = x.movedim(axis, -1)
    if ends is None:
        around = x[..., site % n]
    else:
        real = ends.sum(dim=1, keepdim=True).clamp(min=1)
        sites = torch.where(ends, torch.arange(n, device=x.device), n)
        packed = x.gather(1, sites.sort(dim=1).values.clamp(max=n - 1))
        around = packed.gather(1, site % real)
    table = torch.tensor((*weights, 0), dtype=x.dtype).to(x.device, non_blocking=True)
    offset = site[: length + reach, None] - site[:length]
    band = table[torch.where((offset >= 0) & (offset <= reach), offset, reach + 1)]
    x = (around.unfold(-1, length + reach, length) @ band).flatten(-2)[..., :n]
    if ends is not None:
        x = x.gather(1, (ends.cumsum(dim=1) - 1).clamp(min=0))
    return x.movedim(-1, axis)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def taps(sigma: float, bits: int) -> tuple[int, ...]:
    """A sampled Gaussian out to four standard deviations, in whole numbers that sum to 2 ** bits."""
    reach = math.ceil(4 * sigma)
    weights = [math.exp(-0.5 * (t / sigma) ** 2) if t else 1.0 for t in range(-reach, reach + 1)]
    scale = (1 << bits) / sum(weights)
    # differences of rounded sums, so that rounding adds up to nothing and none is negative
    edges = [round(scale * below) for below in itertools.accumulate(weights, initial=0.0)]
    return tuple(b - a for a, b in itertools.pairwise(edges))
