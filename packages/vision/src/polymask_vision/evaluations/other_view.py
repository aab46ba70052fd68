"""What a second picture is worth to a system that completes the first from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor

from polymask import Batch, Step, Tokens, UserError
from polymask.evaluation.features import evaluating
from polymask.evaluation.heldout_loss import batches
from polymask.evaluation.measurements import Measurement
from polymask.evaluation.result import TRAINED, UNTRAINED
from polymask.systems.host import implementing
from polymask.types import Count

if TYPE_CHECKING:
    from polymask.run import Run

COLUMNS = {
    "own_other": "loss with own",
    "another_other": "loss with another's",
    "no_other": "loss with none",
}


@runtime_checkable
class TwoPictures(Protocol):
    """A system that completes one picture from a second one."""

    def compare(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Losses ``own_other``, ``another_other`` and ``no_other``, by which second picture is seen."""

    def encode_pair(self, batch: Batch) -> Tokens:
        """Features of the first picture, made with both."""


class OtherView:
    """Loss on held-out samples with their own other picture, with that of another sample, and with none.

    The same sites are hidden each time. A system that has learned to look things up in the second picture
    loses by the exchange; one that has not, or that has not been trained, does not mind.

    Args:
        limit: samples at most, evenly spaced.
        batch_size: samples per batch; the sample before it in a batch is the other one.
        seed: of the masks.
    """

    def __init__(self, *, limit: Count | None = 2000, batch_size: Count = 100, seed: int = 0) -> None:
        self.limit, self.batch_size, self.seed = limit, batch_size, seed

    def __call__(self, run: Run) -> Iterator[Measurement]:
        for row, system in ((TRAINED, run.system), (UNTRAINED, run.untrained())):
            asked = implementing(system, TwoPictures)
            with evaluating(system):
                found = [
                    {} if asked is None else asked.compare(batch, Step(0, 1, self.seed))
                    for batch in batches(system, run.data, self.limit, self.batch_size)
                ]
            if not all(found):
                raise UserError(f"{run.name} sees no second picture: this is for vision/croco and its like")
            for name, column in COLUMNS.items():
                yield Measurement.mean(row, column, [float(losses[name]) for losses in found])
