"""A mean over all parts of a step that is divided by their count when the last part has been scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polymask.errors import UserError
from polymask.loss_reduction import Mean


class LateMean:
    """The only loss of a step, computed in parts one after the other, whose counts are not known before.

    Each part is differentiated over a preliminary divisor, and gradients are scaled in the end: the result is
    that of dividing by the count of all parts, to rounding. Where other losses are added to the mean, no one
    scale fits.

    Args:
        unit: the preliminary divisor, one for all parts and processes, scalar.
        parts: of the step, on all processes together.
    """

    def __init__(self, unit: Tensor, parts: int) -> None:
        self.unit, self.parts = unit.clamp(min=1), parts
        self.count, self.sum, self.scale = (torch.zeros_like(unit) for _ in range(3))

    def add(self, terms: Mapping[str, Tensor], means: Sequence[Mean]) -> dict[str, Tensor]:
        """The loss of one more part, to be differentiated.

        Raises:
            UserError: it has more losses than that of the first part.
        """
        if not alone(terms, means):
            raise UserError(
                "a loss that was a mean over a mask in the first part of a step is none in a later one: let "
                "the system return Mask.mean in all of them, or train without --accumulate"
            )
        ((name, value),), (mean,) = terms.items(), means
        self.count += mean.count
        return {name: value * (mean.count / self.unit)}

    def logged(self, loss: Tensor, total: Tensor | None) -> Tensor:
        """What to log for a part, so that the mean over parts is the loss of the step.

        Args:
            loss: of the part, as :meth:`add` gave it.
            total: count of all parts on all processes, which the last part knows.
        """
        before, self.sum = self.sum, self.sum + loss
        if total is None:
            return loss
        self.scale = torch.where(total > 0, self.unit * self.parts / total, 1.0)
        return self.scale * self.sum - before

    def correct(self, parameters: Iterable[Tensor]) -> None:
        """Scale the gradients of the step."""
        gradients: list[Any] = [p.grad for p in parameters if p.grad is not None]
        own = [g.to_local() if hasattr(g, "to_local") else g for g in gradients]  # of sharded ones
        torch._foreach_mul_(own, self.scale)


def alone(terms: Mapping[str, Tensor], means: Sequence[Mean]) -> bool:
    """Whether the loss is one mean over a mask and nothing else."""
    return len(terms) == len(means) == 1 and means[0].value is next(iter(terms.values()))
