"""Schedules: numbers that change over a run, as functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from polymask.errors import UserError
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
"""Share of the change, in [0, 1], by share of the window. ``exp`` and ``log`` with the constant
10 of Diehl Martinez et al. 2023 (CLIMB, arXiv 2311.08886)."""


@dataclass(frozen=True)
class Schedule:
    """A number that goes from ``start`` to ``end`` over a window of the run.

    Args:
        start: value up to the beginning of the window.
        end: value from the end of the window.
        curve: the shape of the change, one of :data:`CURVES`.
        window: shares of the run between which the number changes.

    Raises:
        UserError: no such curve, or no window.
    """

    start: float
    end: float
    curve: Curve = "linear"
    window: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.curve not in CURVES:
            raise UserError(f"curve={self.curve!r}: choose one of {', '.join(CURVES)}")
        if not 0 <= self.window[0] < self.window[1] <= 1:
            raise UserError(f"window must be two shares of the run, 0 <= from < to <= 1, got {self.window}")

    def __call__(self, step: Step) -> float:
        """The number at a step."""
        begin, finish = self.window
        way = CURVES[self.curve](min(max((step.progress - begin) / (finish - begin), 0.0), 1.0))
        return self.start + (self.end - self.start) * way
