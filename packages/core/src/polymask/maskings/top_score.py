"""Sites of highest score."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from polymask.errors import UserError
from polymask.maskings._choose import (
    ABOVE,
    check_ratio,
    hidden_count,
    hidden_counts,
    hide_last,
    hide_last_valid,
    share,
    unique_keys,
)
from polymask.maskings.ranking import Ranking
from polymask.protocols import Request
from polymask.schedules import Schedule
from polymask.step import Step
from polymask.types import NotNegative


class TopScore(Ranking):
    """Hide the sites of highest score, or some of them and the rest at random.

    A share ``hard`` of the hidden sites are those of highest score, all others are uniformly
    random: with 0 this is core/random, to the bit. A pair makes masks harder over the run, as in
    HPM (Wang et al. 2023, arXiv 2304.05919: 0 to 0.5). Equal scores are chosen among at random;
    NaN counts as no evidence and is taken last.

    With ``temperature`` 1 and scores log w, the lowest hidden, the visible sites are those of a draw without
    replacement in proportion to w (Gumbel top-k: Kool et al. 2019, arXiv 1903.06059).

    Args:
        ratio: share of sites to hide, in (0, 1).
        hard: share of the hidden sites chosen by score, in [0, 1]; a pair is start and end of the
            run, linear in between.
        largest: the highest scores are hidden; False for the lowest.
        temperature: scale of the Gumbel noise that is added to scores.
    """

    def __init__(
        self,
        *,
        ratio: float = 0.75,
        hard: float | tuple[float, float] = 1.0,
        largest: bool = True,
        temperature: NotNegative = 0.0,
    ) -> None:
        ends = tuple(hard) if isinstance(hard, Sequence) else (hard, hard)
        if len(ends) != 2 or not all(0 <= end <= 1 for end in ends):
            raise UserError(f"hard must be a share in [0, 1], or two of them (start, end), got {hard}")
        if not 0 <= temperature < math.inf:
            raise UserError(f"temperature must be 0 or more, got {temperature}")
        self.ratio, self.largest, self.temperature = check_ratio(ratio), largest, temperature
        self.hard: float | tuple[float, float] = ends if isinstance(hard, Sequence) else float(hard)

    def rank(self, request: Request) -> Tensor:
        """The hard sites first, then the others at random."""
        score = request.score
        if score is None:
            raise UserError(
                "core/top-score hides by score, and this system computes none; give it one "
                "(--score NAME, where the system has that slot) or use core/random"
            )
        if score.shape != (len(request.ids), request.sites):
            raise ValueError(f"score is {list(score.shape)}, expected [{len(request.ids)}, {request.sites}]")
        bits = request.step.bits(request.ids, request.sites, request.stream)
        evidence = score.detach()
        if self.temperature:
            # a stream of its own: the sites taken at random must not depend on this noise
            uniform = request.step.noise(request.ids, request.sites, ~request.stream)
            evidence = evidence.float() - self.temperature * (-uniform.log()).log()
        evidence = evidence if self.largest else -evidence
        keys = unique_keys(bits, torch.where(evidence.isnan(), -math.inf, evidence))
        hard = self._hard(request.step)
        if request.valid is None:
            top = hide_last(keys, share(hard, hidden_count(self.ratio, request.sites, self.rounding)))
        else:
            counts = share(hard, hidden_counts(self.ratio, request.valid, self.rounding))
            top = hide_last_valid(keys, counts, request.valid)
        rest = unique_keys(bits)
        return torch.where(top.hidden, rest + ABOVE, rest)

    def _hard(self, step: Step) -> float:
        return Schedule(*self.hard)(step) if isinstance(self.hard, tuple) else self.hard
