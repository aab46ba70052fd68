"""The data set of point clouds: what a reader found, sampled, centred, scaled and augmented."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymask import Tokens, UserError
from polymask.data import FileDataset, SplitName, Splits, read_some, span, valid_of
from polymask.types import Count, NotNegative, Share
from polymask_pointcloud.datasets.draw import by_token, scatter
from polymask_pointcloud.datasets.prepare import Augment, Normalise, Preparation
from polymask_pointcloud.datasets.raw import Raw
from polymask_pointcloud.operations import local_shape, nearest, take

_BINS, _PAIRS = 32, 2048
_LEVELS, _PLACES, _AROUND = 8, 256, 16
_LOOK = 32
_PLACED = {
    "sphere": "centred, the farthest point at 1",
    "centre": "centred, in the unit of the files",
    "none": "as in the files, in their unit",
}


class Clouds:
    """Clouds by number, each read when it is asked for; sources are its subclasses.

    Attributes:
        features: names of the features that every cloud has, or None where clouds differ.
        point_classes: names of the classes of points, if points have any.
    """

    features: Sequence[str] | None = None
    point_classes: Sequence[str] = ()

    def __len__(self) -> int:
        raise NotImplementedError

    def name(self, index: int) -> str:
        """Name of a cloud in messages, and in the rule that divides train from test."""
        raise NotImplementedError

    def read(self, index: int) -> Raw:
        """One of them.

        Raises:
            BadSample: it is damaged.
        """
        raise NotImplementedError


class PointDataset(FileDataset[Clouds]):
    """What a reader of clouds found, as samples ``{"points": float32 [N, 3 + F]}``.

    Each point has x, y, z with z up, then its features; augmented, other points of each cloud are taken each
    time, and moved. Where points have classes there is also ``"point_label"``, int64 ``[N]``, -1 where
    unknown.

    Args:
        found: what the reader found.
        points: points per sample: a random part of larger clouds, and of smaller ones points again; meshes
            are sampled by area. None for as many as there are; samples then differ in length.
        features: what to have of a point beside its place: ``normals``, ``colour``, ``intensity``.
        normalise: ``"sphere"`` centres and scales the farthest point to 1, ``"centre"`` centres, ``"none"``
            does neither; see :class:`polymask_pointcloud.datasets.prepare.Preparation` for its origin.
        augment: ``"move"`` turns about z, mirrors, scales and shifts in training.
        turn: largest angle of a move, in radians.
        flip: probability of mirroring x, and of mirroring y.
        scale: range of the factor of a move.
        stretch: range of a further factor of each axis.
        shift: largest shift along each axis.
        limit: maximum number of clouds per split.
    """

    key, what = "points", "clouds"

    def __init__(
        self,
        found: Splits[Clouds],
        /,
        *,
        points: Count | None = 1024,
        features: Sequence[str] = (),
        normalise: Normalise = "sphere",
        augment: Augment = "none",
        turn: NotNegative = 3.141592653589793,
        flip: Share = 0.0,
        scale: Sequence[float] = (1.0, 1.0),
        stretch: Sequence[float] = (1.0, 1.0),
        shift: NotNegative = 0.0,
        limit: Count | None = None,
    ) -> None:
        super().__init__(found, limit=limit)
        self.preparation = Preparation(
            points=points,
            features=features,
            normalise=normalise,
            augment=augment,
            turn=turn,
            flip=flip,
            scale=scale,
            stretch=stretch,
            shift=shift,
        )
        source = found.train.source
        there = features if source.features is None else source.features
        missing = [name for name in features if name not in there]
        if missing:
            raise UserError(
                f"these clouds have no feature {', '.join(missing)}; they have {', '.join(there) or 'none'}: "
                f"set --data.features [{','.join(name for name in features if name in there)}]"
            )
        self.point_classes = list(source.point_classes)
        self._lengths: dict[SplitName, Tensor] = {}
        self.provides: dict[str, Any] = {
            "features": self.preparation.width,
            "feature_names": self.preparation.features,
            "points": points,
            "samples": len(self.splits["train"]),
            "preparation": {"points": points, "features": tuple(features), "normalise": normalise},
        }

    def read(self, source: Clouds, number: int, augment: bool) -> dict[str, Tensor]:
        return self.preparation(source.read(number), None if augment else number)

    def lengths(self, name: SplitName) -> Tensor | None:
        """How many points each sample has, for which each is read once; None where all have as many."""
        if self.preparation.points is not None:
            return None
        if name not in self._lengths:
            samples = self.split(name)
            self._lengths[name] = torch.tensor([len(samples[i][self.key]) for i in range(len(samples))])
        return self._lengths[name]

    def describe(self) -> dict[str, str]:
        """Points, extent in the files, and where places come to lie; reads a few clouds."""
        found, bad = read_some(self.splits["train"], _LOOK, self._looked)
        points = self.preparation.points
        lines = {"points": f"{points:,} of each cloud" if points else "all of each cloud"}
        if found:
            counts, before, after, _ = zip(*found, strict=True)
            there = "meshes sampled by area" if not any(counts) else f"{span(counts, 6)} in the files"
            lines["points"] += f", {there}, in a sample of {len(found)}"
            lines["extent"] = (
                f"longest side {span(before, 6)} in the files, {span(after, 6)} as given to a system"
            )
        moved = any(one[-1] for one in found)
        lines["places"] = _PLACED[self.preparation.normalise] + ", an origin taken off" * moved
        return lines | bad

    def _looked(self, source: Clouds, number: int) -> tuple[int, float, float, bool]:
        """Points of a cloud, its extent in the file and as given, whether an origin was taken off."""
        raw = source.read(number)
        sample = self.preparation(raw, number)
        place = np.asarray(raw.points, dtype=np.float64)
        place = place[np.isfinite(place).all(1)]
        count = len(raw.points) if raw.triangles is None else 0
        after = np.ptp(sample[self.key][:, :3].numpy(), axis=0).max()
        moved = bool(sample.get("origin", torch.zeros(1)).any())
        return count, float(np.ptp(place, axis=0).max()), float(after), moved

    def render(
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
