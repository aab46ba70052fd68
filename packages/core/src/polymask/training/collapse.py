"""Checks features for collapse: all samples mapped to one point, or to one line.

A system that predicts the output of a network that it trains can reach a loss of zero that way, and the loss
alone does not show it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import lightning.pytorch as pl
import torch
from torch import Tensor

from polymask.data import Dataset, collate
from polymask.evaluation.features import evaluating
from polymask.supervision import labels_for, with_labels
from polymask.training.module import Training

SPREAD, RANK = 0.01, 1.5
"""Below these, features are called collapsed."""


class CollapseMonitor:
    """Measures the features of some training samples, the same ones each time, without augmentation.

    Adds ``feature_std`` and ``feature_rank`` of the encoder's features to a row, and what the system's
    ``monitor(batch, step)`` returns: scalars as ``<name>_gauge``, and ``<name>_std`` and ``<name>_rank`` of
    features ``[B, D]`` or ``[B, N, D]``. Warns once about each that collapses.

    Args:
        data: whose training samples are measured.
        every: steps between two measurements.
        size: how many samples.
    """

    def __init__(self, data: Dataset, every: int, size: int = 256) -> None:
        self.data, self.every, self.size = data, every, size
        self._batch: dict[str, Tensor] = {}
        self._warned: set[str] = set()

    def __call__(self, trainer: pl.Trainer, module: Training, step: int) -> dict[str, float]:
        """Measurements at a step."""
        if not self._batch:
            samples = self.data.split("train")
            self.size = min(self.size, len(samples))
            batch = collate([{**samples[i], "id": torch.tensor(i)} for i in range(self.size)])
            self._batch = with_labels(batch, labels_for(module.system, self.data, "train"))
        batch = trainer.strategy.batch_to_device(self._batch)
        with evaluating(module.system, module.device), trainer.precision_plugin.forward_context():
            found = {"feature": module.system.encode(batch).pool()} | module.system.monitor(
                batch, module.step
            )
        row: dict[str, float] = {}
        for name, value in found.items():
            if value.dim():
                row[f"{name}_std"], row[f"{name}_rank"] = spread_and_rank(value)
        self._warn(row, step)
        row |= {f"{name}_gauge": float(value) for name, value in found.items() if not value.dim()}
        return {key: value for key, value in row.items() if self._finite(key, value, step)}

    def _finite(self, key: str, value: float, step: int) -> bool:
        if math.isfinite(value):
            return True
        if key not in self._warned:
            self._warned.add(key)
            warnings.warn(f"step {step}: {key} is {value}, which metrics.csv does not hold", stacklevel=2)
        return False

    def _warn(self, row: Mapping[str, float], step: int) -> None:
        for key, value in row.items():
            name, _, what = key.rpartition("_")
            if value < (SPREAD if what == "std" else RANK) and name not in self._warned:
                self._warned.add(name)
                warnings.warn(
                    f"step {step}: the {name}s of {self.size} different samples have collapsed "
                    f"({key} is {value:.3g}): the encoder hardly tells samples apart any more",
                    stacklevel=2,
                )


def spread_and_rank(x: Tensor) -> tuple[float, float]:
    """How far features spread about their mean, and over how many directions.

    Args:
        x: ``[B, D]``, or ``[B, N, D]``, whose tokens are averaged.

    Returns:
        Standard deviation over root mean square, in [0, 1], 0 when all are equal; and the
        exponential of the entropy of the normalised singular values of the centred features (Roy
        and Vetterli, "The effective rank", EUSIPCO 2007), 0 when all are equal. NaN where a feature is
        not finite.
    """
    x = x.detach().float()
    x = x.mean(dim=1) if x.dim() == 3 else x
    if not x.isfinite().all():
        return math.nan, math.nan
    centred = x - x.mean(dim=0)
    spread = (centred.square().mean() / x.square().mean().clamp(min=1e-30)).sqrt()
    values = torch.linalg.svdvals(centred)
    if values.sum() <= 1e-6 * x.norm():
        return float(spread), 0.0
    share = values / values.sum()
    return float(spread), float(torch.special.entr(share).sum().exp())
