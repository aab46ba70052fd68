"""Several masks of one sample that belong together."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from polymask.errors import UserError
from polymask.mask import Mask
from polymask.maskings.choose import hidden_count, hidden_counts, places, share
from polymask.maskings.ranking import Ranking
from polymask.maskings.scheduled import Scheduled
from polymask.protocols import Masking, Request
from polymask.step import Step
from polymask.types import Count


class Disjoint:
    """Views of one sample that hide different sites, so that together they hide all of them.

    Ma et al. 2023 (DMJD, arXiv 2301.00230). A request for stream v gets the mask of view v. View 0
    is the mask of the inner masking; the others hide as many sites each, further along in its
    ranking and round again: what one view shows, the next hides. Every site (of the share
    ``prediction``) is hidden in at least one view and, give or take one, in as many as any other;
    none is visible in two as long as views * (1 - ratio) is at most 1. Streams from ``views`` on
    are views of further draws.

    Over core/random (also in cells) each view by itself is a uniformly random mask. Over a masking
    of shapes view 0 hides shapes; the others show what the first ones hid. Maskings that draw whole
    masks instead of ranking sites are refused; a schedule goes inside, around the ranking.

    Args:
        masking: what ranks the sites and says how many a view hides.
        views: how many masks belong together.
        prediction: share of sites hidden in at least one view, between the ratio and 1.
    """

    def __init__(self, *, masking: Masking, views: Count = 2, prediction: float = 1.0) -> None:
        inner = masking.masking if isinstance(masking, Scheduled) else masking
        if not isinstance(inner, Ranking):
            raise UserError(
                f"core/disjoint cuts its views from a ranking of sites, and {type(inner).__name__} gives "
                "none; use core/random, core/block, core/span, core/top-score or another "
                "polymask.maskings.Ranking"
            )
        if views < 2:
            raise UserError(f"views must be 2 or more, got {views}")
        if not 0 < prediction <= 1:
            raise UserError(f"prediction must lie in (0, 1], got {prediction}")
        self.masking, self.views, self.prediction = masking, views, prediction
        ratios = [inner.ratio]
        if isinstance(masking, Scheduled) and masking.option == "ratio":
            ratios = [masking.schedule.start, masking.schedule.end]
        for ratio in ratios:
            self._check(ratio)

    def __call__(self, request: Request) -> Mask:
        masking = self._at(request.step)
        self._check(masking.ratio)
        view, draw = request.stream % self.views, request.stream // self.views
        request = dataclasses.replace(request, stream=draw)
        place = places(masking.rank(request), request.valid)
        if request.valid is not None:
            return self._padded(place, request.valid, masking, view)
        unit = masking.unit(request)
        units = request.sites // unit
        count = hidden_count(masking.ratio, units, masking.rounding)
        total = max(share(self.prediction, units), count)
        # Rounding may leave the views one site short of covering all.
        count = unit * max(count, -(-total // self.views))
        hidden = _arc(place, view * count, count, unit * total)
        return Mask(hidden, request.sites - count)

    def _padded(self, place: Tensor, valid: Tensor, masking: Ranking, view: int) -> Mask:
        """As above, with numbers of its own for each row."""
        n = valid.sum(dim=1, keepdim=True)
        count = hidden_counts(masking.ratio, valid, masking.rounding)[:, None]
        total = torch.maximum(share(self.prediction, n), count)
        count = torch.minimum(torch.maximum(count, -(-total // self.views)), (n - 1).clamp(min=0))
        hidden = _arc(place, view * count, count, total.clamp(min=1))
        return Mask(hidden & valid, None, valid)

    def _at(self, step: Step) -> Ranking:
        masking = self.masking.at(step) if isinstance(self.masking, Scheduled) else self.masking
        assert isinstance(masking, Ranking)
        return masking

    def _check(self, ratio: float) -> None:
        """Reject shares that no set of views can reach."""
        reach = self.views * ratio
        if self.prediction > reach + 1e-9:
            enough = math.ceil(self.prediction / ratio - 1e-9)
            raise UserError(
                f"{self.views} views that hide {ratio:g} each hide {reach:g} of the sites together, not "
                f"{self.prediction:g}: use a ratio of {self.prediction / self.views:g} or more, "
                f"{enough} views, or a prediction of {reach:g} or less"
            )
        if self.prediction < ratio - 1e-9:
            raise UserError(
                f"one view alone hides {ratio:g} of the sites, more than the prediction of "
                f"{self.prediction:g}: use a prediction of at least the ratio"
            )


def _arc(place: Tensor, start: int | Tensor, count: int | Tensor, total: int | Tensor) -> Tensor:
    """Which of the first ``total`` places, joined to a ring, lie in the ``count`` from ``start`` on."""
    return ((place - start) % total < count) & (place < total)
