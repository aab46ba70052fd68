"""Sites that are hidden or not, each by a chance of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from polymask.errors import UserError
from polymask.mask import Mask
from polymask.maskings.choose import check_ratio, score_of
from polymask.protocols import Request
from polymask.types import Positive, Share


class Bernoulli:
    """Hide each site by itself, with one chance or with one that goes by its score.

    Without scores every site is hidden with chance ``ratio``. A score s in [0, 1] makes the chance
    ``ratio * sigmoid(slope * (s - threshold))``, as for words in GA-DMS (2025, arXiv 2509.09118); with
    ``largest`` off, 1 - s takes the place of s. Where chance would hide nothing of a sample, or all, the site
    that came nearest to the other side is exchanged, so that of two sites or more one is hidden and one
    visible; at usual ratios and lengths this moves the chances little.

    Args:
        ratio: chance of a site, in (0, 1); the most it gets of a score.
        slope: how sharply scores are told apart.
        threshold: the score at which the chance is half of ``ratio``.
        largest: high scores are hidden; False for low ones.
    """

    def __init__(
        self, *, ratio: float = 0.15, slope: Positive = 20.0, threshold: Share = 0.5, largest: bool = True
    ) -> None:
        self.ratio, self.slope, self.threshold, self.largest = check_ratio(ratio), slope, threshold, largest

    def chances(self, score: Tensor) -> Tensor:
        """The chance of each site by its score, float64 of the same shape."""
        evidence = score.detach().double()
        evidence = evidence if self.largest else 1 - evidence
        return self.ratio * (self.slope * (evidence - self.threshold)).sigmoid()

    def __call__(self, request: Request) -> Mask:
        uniform = request.step.noise(request.ids, request.sites, request.stream).double()
        real = request.real
        if request.valid is None and request.sites == 1:
            raise UserError("one site cannot be both hidden in part and visible in part: give more")
        chance = self.ratio if request.score is None else self.chances(score_of(request, "core/bernoulli"))
        margin = chance - uniform
        hidden = (margin > 0) & real
        count, sites = hidden.sum(1, keepdim=True), real.sum(1, keepdim=True)
        nearest = _at(margin.masked_fill(~real, -torch.inf).argmax(1), hidden)
        last = _at(margin.masked_fill(~real, torch.inf).argmin(1), hidden)
        hidden = torch.where((count == 0) & (sites > 1), nearest, hidden)
        hidden = torch.where((count == sites) & (sites > 0), hidden & ~last, hidden)
        return Mask(hidden, None, request.valid)


def _at(site: Tensor, like: Tensor) -> Tensor:
    """True at one site of each row."""
    return torch.arange(like.shape[1], device=like.device) == site[:, None]
