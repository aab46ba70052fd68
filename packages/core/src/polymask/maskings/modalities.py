"""Whole modalities of a sample: a random subset of them stays visible."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from polymask.errors import UserError
from polymask.mask import Mask
from polymask.maskings.choose import check_ratio, ranks, unique_keys
from polymask.protocols import Request
from polymask.types import Share, Whole

OTHERS = 1 << 41
"""Added to the stream of a request for what is drawn beside the subset itself."""


class Modalities:
    """Hide a random subset of a few sites, which are the modalities of a sample, never all of them.

    A site that is not valid is a modality that a sample lacks. Where nothing may be hidden, that is a subset
    too: with ``sizes="independent"`` all 2^n - 1 subsets of n sites that keep one occur, and a site stays
    visible with probability p / (1 - ratio^n), p = 1 - ratio (hyper-edges of PHG-MAE, Pirvu et al. 2025,
    arXiv 2510.10068, whose law is not published).

    Args:
        ratio: probability of each site to be hidden, before subsets that keep none are left out, in (0, 1).
        sizes: ``"independent"`` sites; or ``"uniform"``: how many stay visible is 1 to n alike, whatever the
            ratio.
        always: numbers of sites that are never hidden.
        whole: probability that nothing is hidden, in addition: the pattern of use, where it is rare
            otherwise.
    """

    def __init__(
        self,
        *,
        ratio: float = 0.5,
        sizes: Literal["independent", "uniform"] = "independent",
        always: tuple[Whole, ...] = (),
        whole: Share = 0.0,
    ) -> None:
        if sizes not in ("independent", "uniform"):
            raise UserError(f"sizes={sizes!r}: choose 'independent' or 'uniform'")
        self.ratio, self.sizes, self.always, self.whole = check_ratio(ratio), sizes, always, whole

    def __call__(self, request: Request) -> Mask:
        if beyond := [site for site in self.always if site >= request.sites]:
            raise UserError(
                f"core/modalities: always={list(self.always)}, and there are {request.sites} sites, numbered "
                f"from 0: leave out {beyond}"
            )
        real = request.real
        chance = request.step.noise(request.ids, 2, OTHERS + request.stream).double()
        draw = self._uniform if self.sizes == "uniform" else self._independent
        kept = draw(request, real, chance[:, :1]) | (chance[:, 1:] < self.whole)
        if self.always:
            kept[:, list(self.always)] = True
        return Mask(~kept & real, None, request.valid)

    def _independent(self, request: Request, real: Tensor, chance: Tensor) -> Tensor:
        """The law without none kept: which is the first kept of n sites, then all behind it as they come."""
        q = self.ratio
        n = real.sum(dim=1, keepdim=True).double()
        first = (1 - chance * (1 - q**n)).log().div(math.log(q)).floor()
        place = real.cumsum(dim=1) - 1
        first = torch.minimum(first, n - 1)  # where rounding leads beyond the last
        noise = request.step.noise(request.ids, request.sites, request.stream)
        return (place == first) | ((place > first) & (noise >= q))

    def _uniform(self, request: Request, real: Tensor, chance: Tensor) -> Tensor:
        """1 to n sites, all numbers alike, in random order; what is not valid comes last."""
        keys = unique_keys(request.step.bits(request.ids, request.sites, request.stream))
        place = ranks(keys.masked_fill(~real, torch.iinfo(torch.int64).max))
        return place < 1 + (chance * real.sum(dim=1, keepdim=True)).floor()
