"""Another masking, with one option that changes over the run."""

from __future__ import annotations

import copy

from polymask.errors import UserError
from polymask.mask import Mask
from polymask.protocols import Masking, Request
from polymask.schedules import Curve, Schedule
from polymask.step import Step


class Scheduled:
    """Another masking, one number of which goes from ``start`` to ``end`` over the run.

    Where the number is a whole one (``cell``, ``length``) it is rounded. A number that changes how
    many sites are hidden changes the shape of what the encoder gets.

    Args:
        masking: the masking whose option changes.
        option: which of its numeric options.
        start: value up to the beginning of the window.
        end: value from the end of the window.
        curve: the shape of the change: ``linear``; ``cosine``, slow at both ends; ``square`` and
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
        numeric = _numbers(masking)
        if option not in numeric:
            raise UserError(
                f"{type(masking).__name__} has no numeric option {option!r} to schedule; "
                f"it has {', '.join(numeric) or 'none'}"
            )
        self.masking, self.option = masking, option
        self.schedule = Schedule(start, end, curve, window)
        self._tried = False

    def value(self, step: Step) -> float:
        """The option's value at a step."""
        return self.schedule(step)

    def at(self, step: Step) -> Masking:
        """The inner masking as it is at a step."""
        return self._with(self.value(step))

    def __call__(self, request: Request) -> Mask:
        if not self._tried:
            # An end that is impossible for these sites shall not be found out hours later.
            for value in (self.schedule.start, self.schedule.end):
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
