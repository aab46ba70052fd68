"""From what a file holds to a sample: sampled, centred, scaled, moved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from polymask import UserError
from polymask.data import BadSample
from polymask_pointcloud.datasets.raw import FEATURES, Array, Raw, by_area, finite, scaled

Normalise = Literal["sphere", "centre", "none"]
Augment = Literal["none", "move"]
_OF_MESH = 2048
_FINEST = 1e-5
"""The coarsest steps that places may have, as a share of the extent of their cloud."""


class Preparation:
    """What is done to each cloud.

    Args:
        points: points per sample: a random part of larger clouds, and of smaller ones points again; meshes
            are sampled by area. None leaves clouds as they are and takes 2,048 points of a mesh.
        features: names of what stands beside the place of a point: ``"normals"``, ``"colour"``,
            ``"intensity"``. Clouds without are left out.
        normalise: ``"sphere"`` centres on the mean and scales the farthest point to 1, ``"centre"`` centres,
            ``"none"`` leaves places as they are, except for an origin of whole units, which is taken off
            where float32 could not tell them apart (UTM coordinates), and kept.
        augment: ``"move"`` turns about z, mirrors x and y, scales and shifts, normals with it.
        turn: largest angle, in radians.
        flip: probability of each mirroring.
        scale: range of the factor.
        stretch: range of a further factor of each axis.
        shift: largest shift along each axis, after scaling.
    """

    def __init__(
        self,
        *,
        points: int | None = 1024,
        features: Sequence[str] = (),
        normalise: Normalise = "sphere",
        augment: Augment = "none",
        turn: float = math.pi,
        flip: float = 0.0,
        scale: Sequence[float] = (1.0, 1.0),
        stretch: Sequence[float] = (1.0, 1.0),
        shift: float = 0.0,
    ) -> None:
        if points is not None and points < 1:
            raise UserError(f"points must be 1 or more per cloud, got {points}")
        unknown = [name for name in features if name not in FEATURES]
        if isinstance(features, str) or unknown:
            raise UserError(f"features {features!r}: choose some of {', '.join(FEATURES)}, as a list")
        if normalise not in ("sphere", "centre", "none") or augment not in ("none", "move"):
            raise UserError(
                f"normalise={normalise!r}, augment={augment!r}: choose 'sphere', 'centre' or 'none', "
                "and 'none' or 'move'"
            )
        for name, ends in {"scale": scale, "stretch": stretch}.items():
            if len(ends) != 2 or not 0 < ends[0] <= ends[1] < math.inf:
                raise UserError(f"{name} must be a range above 0, such as [0.9, 1.1], got {tuple(ends)}")
        self.points, self.features, self.normalise, self.augment = points, tuple(features), normalise, augment
        self.turn, self.flip, self.shift = turn, flip, shift
        self.scale, self.stretch = (scale[0], scale[1]), (stretch[0], stretch[1])

    @property
    def width(self) -> int:
        """Numbers of a point beside its place."""
        return sum(FEATURES[name] for name in self.features)

    def __call__(self, raw: Raw, seed: int | None) -> dict[str, Tensor]:
        """A sample: ``points`` float32 ``[N, 3 + F]``, ``point_label`` int64 ``[N]`` where there are any.

        Where places are not normalised also ``origin``, int64 ``[3]``, what was taken off them.

        Args:
            raw: what was read.
            seed: of which points are taken; None draws from torch's generator and augments.

        Raises:
            BadSample: it lacks a feature, or colours or intensities are not from 0 to 1.
        """
        moving = seed is None and self.augment == "move"
        if seed is None:
            seed = int(torch.randint(1 << 62, ()))
        random = np.random.default_rng(seed)
        if raw.triangles is not None:
            raw = by_area(raw, self.points or _OF_MESH, random)
        missing = [name for name in self.features if name not in raw.features]
        if missing:
            raise BadSample(
                f"has no {', '.join(missing)}; it has {', '.join(raw.features) or 'places alone'}"
            )
        place = np.asarray(raw.points, dtype=np.float64)
        features = {name: scaled(name, raw.features[name]) for name in self.features}
        for name, x in features.items():
            if name != "normals" and ((x < 0) | (x > 1)).any():
                raise BadSample(
                    f"has {name} from {np.nanmin(x):g} to {np.nanmax(x):g}: known are 0 to 1, 255 or 65535"
                )
        real = finite(Raw(place, features, label=raw.label))
        place, features, label = real.points, {**real.features}, real.label
        origin = _origin(place) if self.normalise == "none" else None
        if self.points is not None and len(place) != self.points:
            which = _some(len(place), self.points, random)
            place, features = place[which], {name: x[which] for name, x in features.items()}
            label = None if label is None else label[which]
        place = self._normalised(place) if origin is None else place - origin
        if moving:
            matrix, shift = self._motion(random)
            place = place @ matrix.T + shift
            if "normals" in features:
                across = features["normals"] @ np.linalg.inv(matrix)
                length = np.linalg.norm(features["normals"], axis=1, keepdims=True)
                features["normals"] = across * (
                    length / np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-12)
                )
        table = np.concatenate([place, *features.values()], axis=1).astype(np.float32)
        sample = {"points": torch.from_numpy(table)}
        if origin is not None:
            sample["origin"] = torch.from_numpy(origin)
        if label is not None:
            sample["point_label"] = torch.from_numpy(np.asarray(label, dtype=np.int64))
        return sample

    def _normalised(self, place: Array) -> Array:
        place = place - place.mean(0)
        if self.normalise == "centre":
            return place
        return np.asarray(place / max(np.linalg.norm(place, axis=1).max(), 1e-12))

    def _motion(self, random: np.random.Generator) -> tuple[Array, Array]:
        """A matrix and a shift."""
        angle = random.uniform(-self.turn, self.turn)
        c, s = math.cos(angle), math.sin(angle)
        mirror = np.where(random.random(2) < self.flip, -1.0, 1.0)
        turned = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) * np.array([*mirror, 1.0])
        factor = random.uniform(*self.scale) * random.uniform(*self.stretch, 3)
        return factor[:, None] * turned, random.uniform(-self.shift, self.shift, 3)


def _origin(place: Array) -> Array:
    """What to take off places so that float32 tells them apart, int64 ``[3]``; 0 where it does as it is."""
    middle = (place.min(0) + place.max(0)) / 2
    extent = (place.max(0) - place.min(0)).max()
    step = np.spacing(np.abs(place).max().astype(np.float32))
    return np.asarray(np.round(middle if step > _FINEST * extent else 0 * middle), dtype=np.int64)


def _some(n: int, count: int, random: np.random.Generator) -> Array:
    """``count`` of n numbers: each at most once, or each as often as any other or once more."""
    rounds = [random.permutation(n) for _ in range(-(-count // n))]
    return np.concatenate(rounds)[:count]
