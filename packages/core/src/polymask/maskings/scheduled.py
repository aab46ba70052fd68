"""Another masking, with one option that changes over the run."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Literal

from polymask.errors import UserError
from polymask.mask import Mask
from polymask.protocols import Masking, Request
from polymask.step import Step

Curve = Literal["linear", "cosine", "square", "root", "exp", "log", "step"]

CURVES: dict[str, Callable[[float], float]] = {
    "linear": lambda p: p,
    "cosine": lambda p: (1 - math.cos(math.pi * p)) / 2,
    "square": lambda p: p * p,
    "root": math.sqrt,
    "exp": lambda p: math.expm1(10 * p) / math.expm1(10),
    "log": lambda p: min(max(1 + math.log(p + math.exp(-10)) / 10, 0.0), 1.0),
    "step": math.floor,
}
"""Pacing: share of the way gone, in [0, 1], by share of the time gone. ``exp`` and ``log`` with
the constant 10 of Diehl Martinez et al. 2023 (CLIMB, arXiv 2311.08886)."""


class Scheduled:
    """Another masking, one number of which goes from ``start`` to ``end`` over the run.

    Where the number is a whole one (``cell``, ``length``) it is rounded. A number that changes how
    many sites are hidden changes the shape of what the encoder gets.

    Args:
        masking: the masking whose option changes.
        option: which of its numeric options.
        start: value up to the beginning of the window.
        end: value from the end of the window.
        curve: how fast the way is gone: ``linear``; ``cosine``, slow at both ends; ``square`` and
            ``exp``, late; ``root`` and ``log``, early; ``step``, all at the end.
        window: shares of the run between which the option changes.
    """

    def __init__(
        self,
        *,
        masking: Masking,
        option: str = "ratio",
        start: float = 0.5,
        end: float = 0.75,
        curve: Curve = "linear",
        window: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        if curve not in CURVES:
            raise UserError(f"curve={curve!r}: choose one of {', '.join(CURVES)}")
        if not 0 <= window[0] < window[1] <= 1:
            raise UserError(f"window must be two shares of the run, 0 <= from < to <= 1, got {window}")
        numeric = _numbers(masking)
        if option not in numeric:
            raise UserError(
                f"{type(masking).__name__} has no numeric option {option!r} to schedule; "
                f"it has {', '.join(numeric) or 'none'}"
            )
        self.masking, self.option, self.start, self.end = masking, option, start, end
        self.curve, self.window = curve, (window[0], window[1])
        self._tried = False

    def value(self, step: Step) -> float:
        """The option's value at a step."""
        begin, finish = self.window
        way = CURVES[self.curve](min(max((step.progress - begin) / (finish - begin), 0.0), 1.0))
        return self.start + (self.end - self.start) * way

    def at(self, step: Step) -> Masking:
        """The inner masking as it is at a step."""
        return self._with(self.value(step))

    def __call__(self, request: Request) -> Mask:
        if not self._tried:
            # An end that is impossible for these sites shall not be found out hours later.
            for value in (self.start, self.end):
                self._with(value)(request)
            self._tried = True
        return self.at(request.step)(request)

    def _with(self, value: float) -> Masking:
        changed = copy.copy(self.masking)
        whole = isinstance(getattr(changed, self.option), int)
        setattr(changed, self.option, round(value) if whole else float(value))
        return changed


def _numbers(masking: Masking) -> list[str]:
    """Names of the options of a masking that are numbers."""
    return [
        name
        for name, value in vars(masking).items()
        if not name.startswith("_") and isinstance(value, int | float) and not isinstance(value, bool)
    ]
