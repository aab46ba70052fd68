"""What every data set of clouds is made of: a source of clouds, its two splits, a preparation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polymask import Tokens
from polymask.data import Split, valid_of
from polymask.data import Split, FileDataset, Skipped
from polymask_pointcloud.datasets.draw import by_token, scatter
from polymask_pointcloud.datasets.splits import Clouds
from polymask_pointcloud.datasets.prepare import Preparation
from polymask_pointcloud.operations import local_shape, nearest, take

_BINS, _PAIRS = 32, 2048
_LEVELS, _PLACES, _AROUND = 8, 256, 16


class CloudDataset(FileDataset[Clouds]):
    """A data set of clouds; subclasses are constructors that find them.

    A sample is ``{"points": float32 [N, 3 + F]}``: x, y, z with z up, then features; augmented, other points
    of each cloud each time, moved. Where points have classes there is ``"point_label"`` beside it, int64
    ``[N]``, -1 where one is not known.

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
        train: Split[Clouds],
        test: Split[Clouds],
        preparation: Preparation,
        *,
        classes: Sequence[str] | None = None,
        skipped: Skipped | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(train, test, classes=classes, skipped=skipped, limit=limit)
        self.preparation = preparation
        self._lengths: dict[Split, Tensor] = {}
        self.provides: dict[str, Any] = {
            "features": preparation.width,
            "feature_names": preparation.features,
            "points": preparation.points,
            "samples": len(self.splits["train"]),
        }

    def read(self, source: Clouds, number: int, augment: bool) -> dict[str, Tensor]:
        return self.preparation(source.read(number), None if augment else number)

    def lengths(self, name: Split) -> Tensor | None:
        """How many points each sample has, for which each is read once; None where all have as many."""
        if self.preparation.points is not None:
            return None
        if name not in self._lengths:
            samples = self.split(name)
            self._lengths[name] = torch.tensor([len(samples[i][self.key]) for i in range(len(samples))])
        return self._lengths[name]

    def draw(
        self, sample: Mapping[str, Tensor], tokens: Tokens | None = None, hidden: Tensor | None = None
    ) -> Tensor:
        """The cloud as a picture ``[3, H, W]`` in [0, 1], points of hidden tokens in colour."""
        points = sample[self.key][:, :3]
        if tokens is None or hidden is None:
            return scatter(points)
        return scatter(points, by_token(points, tokens, hidden))

    def descriptor(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What can be said of a cloud without learning, ``[B, 54]``.

        How distances between two of its points are spread (D2, Osada et al. 2002), its extent and standard
        deviation along each axis, and how its surface bends and how level it is, by the principal axes of
        neighbourhoods (Weinmann et al. 2015).
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
        return torch.cat([share, high - low, spread, _surfaces(points, real)], dim=1)


def _surfaces(points: Tensor, real: Tensor) -> Tensor:
    """Histograms over places of clouds ``[B, N, 3]``, ``[B, 16]``: share of the least spread, how level."""
    n = real.sum(1, keepdim=True)
    place = take(points, torch.arange(_PLACES, device=points.device) * n // _PLACES)
    _, index = nearest(place, points, _AROUND, real)
    shape = local_shape(take(points, index), (torch.arange(_AROUND, device=n.device) < n)[:, None])
    counts = []
    for x in (3 * shape.curvature[..., 2], shape.normal[..., 2].abs()):
        which = (x * _LEVELS).long().clamp(0, _LEVELS - 1)
        share = torch.zeros(len(points), _LEVELS, device=points.device)
        counts.append(share.scatter_add_(1, which, torch.full_like(x, _LEVELS / _PLACES)))
    return torch.cat(counts, dim=1)
