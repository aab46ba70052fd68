"""How near to held-out samples those come that a system generates, at several budgets."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from polymask.config.options import generation_options
from polymask.data import Dataset, evenly
from polymask.errors import UserError
from polymask.evaluation.features import (
    Extractor,
    batches,
    encoder_features,
    evaluating,
    extract,
    on_device,
    raw_features,
    require_finite,
)
from polymask.evaluation.measurements import Measurement
from polymask.evaluation.result import TRAINED, UNTRAINED
from polymask.step import Step
from polymask.supervision import labels_for, with_labels
from polymask.systems.base import Generates, System
from polymask.systems.host import implementing
from polymask.types import Count

if TYPE_CHECKING:
    from polymask.run import Run

REAL = "training samples"
"""Row of what can be reached: other real samples, as many."""

DISTANCE, COST = "Fréchet distance", "ms per sample"

NUMBERS = 768
"""The samples themselves are averaged over neighbours to this many numbers at most."""


class FrechetDistance:
    """Fréchet distance between generated and held-out samples, at one budget or more.

    That of normal distributions fitted to features of both, as the FID of Heusel et al. 2017 has it; the
    lower the better. The features are those of a network of one's own, or the samples themselves, averaged
    over neighbours. Few samples raise it: compare where their number is the same, as in all rows.
    Milliseconds are those of this machine, beside whatever else it did.

    Args:
        budgets: options of the system's ``generate``, a row for each; its defaults if none are given. The
            first makes the row ``pre-trained``.
        network: folder of a run whose encoder gives the features, the mean over tokens.
        samples: how many to generate, and compare to as many held-out ones, evenly spaced.
        seed: of all chance in generation.
        batch_size: samples at a time; what is generated does not depend on it.
    """

    def __init__(
        self,
        *,
        budgets: tuple[Mapping[str, Any], ...] = (),
        network: str | None = None,
        samples: Count = 500,
        seed: int = 0,
        batch_size: Count = 50,
    ) -> None:
        self.budgets: tuple[Mapping[str, Any], ...] = budgets or ({},)
        self.network, self.samples, self.seed, self.batch_size = network, samples, seed, batch_size

    def __call__(self, run: Run) -> Iterator[Measurement]:
        maker: Generates | None = implementing(run.system, Generates)
        if maker is None:
            raise UserError(f"{type(run.system).__name__} generates nothing whose distance could be taken")
        known = generation_options(maker.generate)
        if unknown := {name for budget in self.budgets for name in budget} - set(known):
            raise UserError(
                f"budgets: {', '.join(sorted(unknown))} is no option of generation by "
                f"{type(maker).__name__}; there are {', '.join(known) or 'none'}"
            )
        data, network = run.data, None if self.network is None else _encoder_of(self.network)
        look = raw_features(data.key, NUMBERS) if network is None else encoder_features(network)
        n = min(self.samples, *(len(data.split(split)) for split in ("test", "train")))
        if n < 2:
            raise UserError(f"a distribution takes two samples or more, and there are {n} to compare")
        with evaluating(network or nn.Identity()):
            real, others = (
                extract({"": look}, samples, evenly(len(samples), n))[""]
                for samples in (data.split("test"), data.split("train"))
            )
            rows = [
                (TRAINED if k == 0 else budget_text(budget), run.system, budget)
                for k, budget in enumerate(self.budgets)
            ]
            for row, system, budget in (*rows, (UNTRAINED, run.untrained(), self.budgets[0])):
                started = time.perf_counter()
                made = self._generated(system, data, n, budget, look)
                yield Measurement(row, DISTANCE, distance(made, real))
                yield Measurement(row, COST, 1e3 * (time.perf_counter() - started) / n)
        yield Measurement(REAL, DISTANCE, distance(others, real))

    def _generated(
        self, system: System, data: Dataset, n: int, budget: Mapping[str, Any], look: Extractor
    ) -> Tensor:
        """Features ``[n, D]`` of what a system generates, of the classes of the held-out samples."""
        maker, samples = implementing(system, Generates), data.split("test")
        labels, found = labels_for(system, data, "test"), list[Tensor]()
        with evaluating(system):
            for batch in batches(samples, evenly(len(samples), n), batch_size=self.batch_size):
                here = on_device(with_labels(batch, labels), system)
                made = maker.generate(here, Step(0, 1, self.seed), None, **budget).samples
                found.append(look(made).float().cpu())
                require_finite("a generated sample", found[-1])
        return torch.cat(found)


def budget_text(budget: Mapping[str, Any]) -> str:
    """Options as the name of a row."""
    return ", ".join(f"{name} {value}" for name, value in budget.items()) or "defaults"


def distance(one_ND: Tensor, other_ND: Tensor) -> float:
    """The Fréchet distance of normal distributions fitted to two sets of features."""
    features = nn.Identity()
    features.num_features = one_ND.shape[1]  # type: ignore[assignment]
    metric = FrechetInceptionDistance(feature=features)
    metric.update(one_ND, real=True)
    metric.update(other_ND, real=False)
    return max(0.0, float(metric.compute()))


def _encoder_of(folder: str) -> System:
    """The system of another run, whose encoder looks at samples."""
    from polymask.run import Run

    return Run.open(folder).system
