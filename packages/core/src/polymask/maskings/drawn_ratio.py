"""Another masking, with a ratio of its own for each sample."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from polymask.errors import UserError
from polymask.mask import Mask
from polymask.maskings.choose import hide_last_valid
from polymask.maskings.ranking import Ranking
from polymask.protocols import Masking, Request
from polymask.types import Positive, Whole

Curve = Literal["cosine"] | Positive
"""How the share of hidden sites falls from 1 to 0: ``"cosine"``, or the exponent p of 1 - x^p."""

RATIO = 1 << 40
"""Streams from here on are those of ratios, below are those of the masking inside."""


def hidden_share(x: Tensor, curve: Curve) -> Tensor:
    """Share of sites that are hidden, by how far along ``x`` in [0, 1] is; any shape, float64."""
    x = x.double()
    return (math.pi / 2 * x).cos() if curve == "cosine" else 1 - x**curve


class DrawnRatio:
    """Hide a share of sites that is drawn for each sample and step, from much to little.

    The share is a curve at a uniform number, rounded up (MaskGIT, Chang et al. 2022, arXiv 2202.04200:
    cosine. A share of r or less then has chance 2 arcsin(r) / pi, and the mean is 2 / pi = 0.64). Which sites
    these are the masking inside ranks; its own ratio does not count.

    Args:
        masking: what ranks the sites.
        curve: ``cosine``, or the exponent p of 1 - u^p for u uniform: 1 for ratios that are equally likely,
            above 1 for high ones.
        visible: at least so many sites of each sample stay visible; 0 also hides whole samples.
    """

    def __init__(self, *, masking: Masking, curve: Curve = "cosine", visible: Whole = 1) -> None:
        if not isinstance(masking, Ranking):
            raise UserError(
                f"core/drawn-ratio hides the first of a ranking of sites, and {type(masking).__name__} gives "
                "none; use core/random, core/block, core/top-score or another polymask.maskings.Ranking"
            )
        self.masking, self.curve, self.visible = masking, curve, visible

    def __call__(self, request: Request) -> Mask:
        masking, n = self.masking, request.sites
        if n <= self.visible:
            raise UserError(
                f"{self.visible} of {n} sites stay visible, so that nothing is hidden: choose fewer"
            )
        unit, real = masking.unit(request), request.real
        units = real.sum(dim=1) // unit
        most = (units - -(-self.visible // unit)).clamp(min=0)
        uniform = request.step.noise(request.ids, 1, RATIO + request.stream)[:, 0]
        counts = (hidden_share(uniform, self.curve) * units).ceil().long()
        hidden = hide_last_valid(masking.rank(request), unit * torch.minimum(counts, most), real).hidden
        return Mask(hidden, None, request.valid)
