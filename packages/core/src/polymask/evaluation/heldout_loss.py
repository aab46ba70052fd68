"""The loss of a trained system on samples it has not seen, under a mask of the evaluation's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from polymask.data import Dataset, SplitName, evenly
from polymask.errors import UserError
from polymask.evaluation import features
from polymask.evaluation.features import evaluating
from polymask.evaluation.measurements import Measurement
from polymask.evaluation.result import TRAINED, UNTRAINED
from polymask.protocols import Batch, Masking
from polymask.slots import filled
from polymask.step import Step
from polymask.supervision import labels_for, with_labels
from polymask.systems.base import System
from polymask.types import Count

if TYPE_CHECKING:
    from polymask.run import Run


class HeldoutLoss:
    """Loss on held-out samples, all runs under the same masks.

    Losses of runs that were trained with different maskings measure different things; this one does
    not: the run's masking gives way to another, and every run is asked for the same hidden sites of the
    same samples.

    Args:
        masking: what to hide.
        limit: samples at most, evenly spaced.
        batch_size: samples per batch.
        seed: of the masks.
    """

    def __init__(
        self, *, masking: Masking, limit: Count | None = 2000, batch_size: Count = 100, seed: int = 0
    ) -> None:
        self.masking, self.limit, self.batch_size, self.seed = masking, limit, batch_size, seed

    def __call__(self, run: Run) -> Iterator[Measurement]:
        if _masked_by(run.system) is None:
            raise UserError(f"{run.name} draws no mask by a masking that could be exchanged")
        for row, system in ((TRAINED, run.system), (UNTRAINED, run.untrained())):
            with evaluating(system):
                losses = self._losses(system, run.data)
            yield Measurement.mean(row, "held-out loss", losses)

    def _losses(self, system: System, data: Dataset) -> list[float]:
        """The loss of each batch."""
        owner: Any = _masked_by(system)
        own: Masking = owner.masking
        owner.masking = self.masking
        try:
            return [
                float(sum(system(batch, Step(0, 1, self.seed)).values()))
                for batch in batches(system, data, self.limit, self.batch_size)
            ]
        finally:
            owner.masking = own


def _masked_by(system: System) -> System | None:
    """The system, or the one that it hosts, whose slot ``masking`` is filled."""
    return next((owner for owner, slot, _ in filled(system, "maskings") if slot == "masking"), None)


def batches(
    system: System,
    data: Dataset,
    limit: int | None,
    batch_size: int,
    split: SplitName = "test",
    whole: bool = False,
) -> Iterator[Batch]:
    """Samples of a split where the system is, evenly spaced and mixed.

    Unless they are to be whole, what is left over after the last full batch is left out, if it is not all
    there is.
    """
    samples, labels = data.split(split), labels_for(system, data, split)
    spaced = evenly(len(samples), limit)
    # samples often lie in order of class; batches are to be alike
    order = torch.randperm(len(spaced), generator=torch.Generator().manual_seed(0)).tolist()
    index, drop_last = [spaced[i] for i in order], not whole and len(spaced) > batch_size
    for batch in features.batches(samples, index, batch_size=batch_size, drop_last=drop_last):
        yield with_labels(features.on_device(batch, system), labels)


def numbered(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Batches with numbers from 0 on as ids of their samples, so that their size changes no chance."""
    done = 0
    for batch in batches:
        first = next(iter(batch.values()))
        yield {**batch, "id": done + torch.arange(len(first), device=first.device)}
        done += len(first)
