"""Maskings that hide the first of a ranking."""

from __future__ import annotations

from torch import Tensor

from polymask.mask import Mask
from polymask.maskings.choose import Rounding, hidden_count, hidden_counts, hide_last, hide_last_valid
from polymask.protocols import Request


class Ranking:
    """Ranks the sites of each sample and hides an exact share of them, the highest rank first.

    All of the core's maskings are rankings; a subclass sets ``ratio`` and writes :meth:`rank`.
    Whoever needs more than one mask of a sample that belong together (``core/disjoint``) cuts
    them from one ranking.

    Attributes:
        ratio: share of the sites (of the real ones, where there is padding) to hide.
        rounding: how ``ratio`` becomes a count: ``"nearest"`` or ``"up"``.
    """

    ratio: float
    rounding: Rounding = "nearest"

    def rank(self, request: Request) -> Tensor:
        """Integers ``[B, sites]``, distinct within each row; those of largest rank are hidden."""
        raise NotImplementedError

    def unit(self, request: Request) -> int:
        """How many sites are hidden or kept together; they are neighbours in the ranking."""
        return 1

    def __call__(self, request: Request) -> Mask:
        keys = self.rank(request)
        if request.valid is not None:
            counts = hidden_counts(self.ratio, request.valid, self.rounding)
            return hide_last_valid(keys, counts, request.valid)
        unit = self.unit(request)
        return hide_last(keys, unit * hidden_count(self.ratio, request.sites // unit, self.rounding))
