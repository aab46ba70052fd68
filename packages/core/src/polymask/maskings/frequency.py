"""Low or high frequencies."""

from __future__ import annotations

import functools
import math

import torch

from polymask.errors import UserError
from polymask.mask import Mask
from polymask.protocols import Request

PAPER = 16 / 224
"""Radius of Xie et al. 2022: 16 bins of pictures of 224 pixels."""


class Frequency:
    """Hide the low or the high frequencies of a spectrum (Xie et al. 2022, arXiv 2206.07706).

    Sites are the bins of a centred spectrum of any number of axes, the zero frequency at ``n // 2``
    of each (:mod:`polymask.nn.spectra`). A sample keeps either the frequencies nearer to zero than the
    radius, or the others. With ``outer`` there is a ring between both radii, and a sample loses the
    ring or keeps nothing else.

    Rows differ in how much they hide: at the paper's radius 98.4 % of the bins, or 1.6 %.

    Args:
        radius: in cycles per site, so that it means the same at every resolution and where axes
            differ in length; a picture of n pixels has it at ``radius * n`` bins.
        outer: outer radius of a ring; None for low and high frequencies.
        low_pass: chance that a sample keeps the low frequencies (or loses the ring); the paper has
            0.5 for a ViT and 0.3 for a ResNet-50.
    """

    def __init__(self, *, radius: float = PAPER, outer: float | None = None, low_pass: float = 0.5) -> None:
        if not radius > 0:
            raise UserError(f"radius must be positive, in cycles per site (the paper's is {PAPER:.4f})")
        if outer is not None and outer <= radius:
            raise UserError(f"outer must be larger than the radius of {radius}, got {outer}")
        if not 0 <= low_pass <= 1:
            raise UserError(f"low_pass is a chance in [0, 1], got {low_pass}")
        self.radius, self.outer, self.low_pass = radius, outer, low_pass

    def __call__(self, request: Request) -> Mask:
        if request.grid is None or request.valid is not None:
            raise UserError(
                "core/frequency hides bins of a spectrum, which form a grid without padding; use it in a "
                "system that hides frequencies (vision/mfm), or core/random here"
            )
        squared = torch.zeros((), dtype=torch.float64, device=request.ids.device)
        for n in request.grid:
            frequency = torch.arange(n, device=squared.device) - n // 2
            squared = squared[..., None] + (frequency.double() / n).square()
        # bins on a circle itself lie outside it, whatever the last digit of the radius
        inner, outer = self.radius**2 - 1e-12, (self.outer or math.inf) ** 2 - 1e-12
        _confirm(request.grid, inner, outer)
        kept = ((squared < inner) | (squared >= outer)).flatten()
        low = request.step.noise(request.ids, 1, request.stream) < self.low_pass
        return Mask(kept ^ low)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _confirm(grid: tuple[int, ...], inner: float, outer: float) -> None:
    """Refuse circles with no bin between or beyond them; squared radii."""
    if not _has_bin(tuple(grid), inner, outer):
        shape, end = " x ".join(map(str, grid)), "" if outer == math.inf else f" and below {outer**0.5:g}"
        raise UserError(
            f"no frequency of {shape} sites is {inner**0.5:g} cycles per site or more{end}, so nothing "
            "would be hidden or left: choose a smaller radius or a wider ring"
        )


@functools.cache
def _has_bin(grid: tuple[int, ...], inner: float, outer: float) -> bool:
    squares = {0.0}
    for n in grid:
        squares = {square + (k / n) ** 2 for square in squares for k in range(n // 2 + 1)}
    return any(inner <= square < outer for square in squares)
