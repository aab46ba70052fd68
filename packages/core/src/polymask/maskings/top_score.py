"""Sites of highest score."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from polymask.errors import UserError
from polymask.maskings.choose import (
    ABOVE,
    check_ratio,
    hidden_count,
    hidden_counts,
    hide_last,
    hide_last_valid,
    ranks,
    score_of,
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
        per_axis: axis of a grid along which each slice hides the same number of sites, those of highest
            score within it: 0 for each time of a video by itself (TGM: Fan et al. 2024, arXiv 2408.00759).
            None to choose among all sites.
    """

    def __init__(
        self,
        *,
        ratio: float = 0.75,
        hard: float | tuple[float, float] = 1.0,
        largest: bool = True,
        temperature: NotNegative = 0.0,
        per_axis: int | None = None,
    ) -> None:
        ends = tuple(hard) if isinstance(hard, Sequence) else (hard, hard)
        if len(ends) != 2 or not all(0 <= end <= 1 for end in ends):
            raise UserError(f"hard must be a share in [0, 1], or two of them (start, end), got {hard}")
        if not 0 <= temperature < math.inf:
            raise UserError(f"temperature must be 0 or more, got {temperature}")
        self.ratio, self.largest, self.temperature = check_ratio(ratio), largest, temperature
        self.hard: float | tuple[float, float] = ends if isinstance(hard, Sequence) else float(hard)
        if per_axis is not None and per_axis < 0:
            raise UserError(f"per_axis counts axes from 0, got {per_axis}")
        self.per_axis = per_axis

    def unit(self, request: Request) -> int:
        """As many sites as there are slices: one of each is hidden or kept with those of the others."""
        return 1 if self.per_axis is None else self._sides(request)[1]

    def rank(self, request: Request) -> Tensor:
        """The hard sites first, then the others at random."""
        score = score_of(request, "core/top-score")
        bits = request.step.bits(request.ids, request.sites, request.stream)
        evidence = score.detach()
        if self.temperature:
            # a stream of its own: the sites taken at random must not depend on this noise
            uniform = request.step.noise(request.ids, request.sites, ~request.stream)
            evidence = evidence.float() - self.temperature * (-uniform.log()).log()
        evidence = evidence if self.largest else -evidence
        keys = unique_keys(bits, torch.where(evidence.isnan(), -math.inf, evidence))
        hard = self._hard(request.step)
        if self.per_axis is not None:
            return self._by_slice(keys, unique_keys(bits), hard, request)
        if request.valid is None:
            top = hide_last(keys, share(hard, hidden_count(self.ratio, request.sites, self.rounding)))
        else:
            counts = share(hard, hidden_counts(self.ratio, request.valid, self.rounding))
            top = hide_last_valid(keys, counts, request.valid)
        rest = unique_keys(bits)
        return torch.where(top.hidden, rest + ABOVE, rest)

    def _by_slice(self, keys: Tensor, rest: Tensor, hard: float, request: Request) -> Tensor:
        """Ranks in which the first of all slices come together, then their second ones, and so on."""
        before, slices, behind = self._sides(request)

        def slice_rows(x: Tensor) -> Tensor:
            return x.view(-1, before, slices, behind).transpose(1, 2).reshape(-1, before * behind)

        sites = before * behind
        top = hide_last(slice_rows(keys), share(hard, hidden_count(self.ratio, sites, self.rounding)))
        ranked = slice_rows(rest)
        place = ranks(torch.where(top.hidden, ranked + ABOVE, ranked))
        place = place.view(-1, slices, before, behind).transpose(1, 2)
        return (place * slices + torch.arange(slices, device=place.device)[:, None]).flatten(1)

    def _sides(self, request: Request) -> tuple[int, int, int]:
        """Sites of the axes before the one of the slices, slices, and sites of the axes behind it."""
        grid, axis = request.grid, self.per_axis
        assert axis is not None
        if grid is None or request.valid is not None or axis >= len(grid):
            raise UserError(
                f"core/top-score with per_axis {axis} needs tokens on a grid that has this axis, without "
                f"padding, and the grid is {grid}: leave masking.per_axis out"
            )
        return math.prod(grid[:axis]), grid[axis], math.prod(grid[axis + 1 :])

    def _hard(self, step: Step) -> float:
        return Schedule(*self.hard)(step) if isinstance(self.hard, tuple) else self.hard
