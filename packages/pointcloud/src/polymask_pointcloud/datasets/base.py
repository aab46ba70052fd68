"""What every data set of clouds is made of: a source of clouds, its two splits, a preparation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polymask import Tokens
from polymask.data import valid_of
from polymask.portions import Portion, ReadDataset, Skipped
from polymask_pointcloud.datasets.draw import by_token, scatter
from polymask_pointcloud.datasets.portions import Clouds
from polymask_pointcloud.datasets.prepare import Preparation
from polymask_pointcloud.operations import take

_BINS, _PAIRS = 32, 2048


class CloudDataset(ReadDataset[Clouds]):
    """A data set of clouds; subclasses are constructors that find them.

    A sample is ``{"points": float32 [N, 3 + F]}``: x, y, z with z up, then features; augmented, other points
    of each cloud each time, moved.

    Args:
        train: what to train on.
        test: what to hold out.
        preparation: how many points, of what, and where.
        classes: names of the classes, or None.
        skipped: what was left out when the clouds were found, with the reason.
        limit: at most so many clouds of each split.
    """

    key, what = "points", "clouds"

    def __init__(
        self,
        train: Portion[Clouds],
        test: Portion[Clouds],
        preparation: Preparation,
        *,
        classes: Sequence[str] | None = None,
        skipped: Skipped | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(train, test, classes=classes, skipped=skipped, limit=limit)
        self.preparation = preparation
        self.provides: dict[str, Any] = {
            "features": preparation.width,
            "points": preparation.points,
            "samples": len(self.portions["train"]),
        }

    def read(self, source: Clouds, number: int, augment: bool) -> dict[str, Tensor]:
        return {self.key: self.preparation(source.read(number), None if augment else number)}

    def draw(
        self, sample: Mapping[str, Tensor], tokens: Tokens | None = None, hidden: Tensor | None = None
    ) -> Tensor:
        """The cloud as a picture ``[3, H, W]`` in [0, 1], points of hidden tokens in colour."""
        points = sample[self.key][:, :3]
        if tokens is None or hidden is None:
            return scatter(points)
        return scatter(points, by_token(points, tokens, hidden))

    def descriptor(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What can be said of a cloud without learning, ``[B, 38]``.

        How distances between two of its points are spread (D2, Osada et al. 2002), and its extent and
        standard deviation along each axis.
        """
        points, real = batch[self.key][..., :3].float(), valid_of(batch, self.key)
        if real is None:
            real = points.new_ones(points.shape[:2], dtype=torch.bool)
        n = real.sum(1, keepdim=True)
        generator = torch.Generator().manual_seed(0)
        pair = torch.rand(2, _PAIRS, generator=generator).to(points.device)
        one, other = (take(points, (at * n).long().clamp(max=points.shape[1] - 1)) for at in pair)
        distance = (one - other).norm(dim=-1)
        largest = distance.amax(1, keepdim=True).clamp(min=1e-12)
        place = (distance / largest * _BINS).long().clamp(max=_BINS - 1)
        share = torch.zeros(len(points), _BINS, device=points.device)
        share.scatter_add_(1, place, torch.full_like(distance, _BINS / _PAIRS))
        kept = real[..., None]
        mean = torch.where(kept, points, 0.0).sum(1, keepdim=True) / n[..., None]
        spread = (torch.where(kept, points - mean, 0.0).square().sum(1) / n).sqrt()
        high = points.masked_fill(~kept, -torch.inf).amax(1)
        low = points.masked_fill(~kept, torch.inf).amin(1)
        return torch.cat([share, high - low, spread], dim=1)
