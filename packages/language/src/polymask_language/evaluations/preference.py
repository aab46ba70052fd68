"""What alignment by preferences did, on pairs that were held out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from polymask import Step, UserError
from polymask.data import collate, evenly
from polymask.evaluation import Measurement
from polymask.evaluation.features import Picked, evaluating, on_device
from polymask.evaluation.result import TRAINED, UNTRAINED
from polymask.types import Count
from polymask_language.systems.sparsepo import SparsePO

if TYPE_CHECKING:
    from polymask.run import Run

LIKELIHOOD = "likelihood of the reference"


class Preference:
    """How well a policy tells chosen responses from rejected ones, and how far it went from its reference.

    ``accuracy``, the share of pairs whose chosen response became more likely, against the reference, than
    the rejected one; ``margin``, by how many nats on average; ``KL``, of the policy from the reference, in
    nats per token of both responses. Each without the weights that the policy was
    trained with, so that runs compare. The rival ``likelihood of the reference`` calls that response better
    which the reference finds likelier.

    ``margin over root KL`` is what to compare policies by that moved differently far: near the reference,
    going twice as far the same way doubles the margin and makes four times the divergence.

    Where the data tells which tokens decide, also ``contrast``: the mean weight of their terms over that of
    all terms of responses, 1 where weights know nothing of it, 0 where no token has any. ``mean weight`` is
    what to compare strengths at, as larger weights act like a larger beta.

    Args:
        limit: pairs at most, evenly spaced.
        batch_size: pairs per batch.
    """

    def __init__(self, *, limit: Count | None = 1000, batch_size: Count = 64) -> None:
        if batch_size < 1 or (limit is not None and limit < 1):
            raise UserError("limit and batch_size must be 1 or more")
        self.limit, self.batch_size = limit, batch_size

    def __call__(self, run: Run) -> Iterator[Measurement]:
        """Scores of the run, of the same untrained, and of the reference alone.

        Raises:
            UserError: the run aligned nothing.
        """
        if not isinstance(run.system, SparsePO):
            raise UserError(f"{run.name} has no policy and reference to compare: use language/sparsepo")
        samples = run.data.split("test")
        picked = Picked(samples, evenly(len(samples), self.limit))
        untrained = run.untrained()
        for row, system in ((TRAINED, run.system), (UNTRAINED, untrained)):
            with evaluating(system):
                found = self._measure(system, picked)
            for metric in ("accuracy", "margin", "KL", "mean weight", "contrast"):
                if metric in found:
                    interval = Measurement.share if metric == "accuracy" else Measurement.mean
                    yield interval(row, metric, found[metric].tolist())
            distance = float(found["KL"].mean())
            if distance > 0:
                yield Measurement(row, "margin over root KL", float(found["margin"].mean()) / distance**0.5)
            if row == TRAINED:
                likelier = found["likelier"]
        yield Measurement.share(LIKELIHOOD, "accuracy", likelier.tolist())

    def _measure(self, system: Any, samples: Picked) -> dict[str, Tensor]:
        """By metric, one number per pair, float64."""
        parts: list[dict[str, Tensor]] = []
        for batch in DataLoader(samples, self.batch_size, collate_fn=collate):
            terms = system.terms(on_device(batch, system), Step())
            reward, likelihood = (x.sum(1).double().chunk(2) for x in (terms.reward, terms.likelihood))
            count = terms.scored.sum(1).view(2, -1).sum(0).clamp(min=1)
            weight = (terms.reward_weight + terms.divergence_weight).double() / 2
            weights = weight.sum(1).view(2, -1).sum(0) / count
            found = {
                "accuracy": (reward[0] > reward[1]).double(),
                "margin": reward[0] - reward[1],
                "KL": terms.divergence.double().sum(1).view(2, -1).sum(0) / count,
                "mean weight": weights,
                "likelier": (likelihood[0] > likelihood[1]).double(),
            }
            if "decisive" in terms.rows:
                decides = terms.rows["decisive"] & terms.scored
                each = decides.sum(1).view(2, -1).sum(0)
                decisive = (weight * decides).sum(1).view(2, -1).sum(0)
                found["decisive"] = (decisive / each)[each > 0]  # what decides may have been cut off
            parts.append(found)
        whole = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
        if "decisive" in whole:
            mean = whole["mean weight"].mean().clamp(min=1e-12)
            whole["contrast"] = whole.pop("decisive") / mean
        return whole
