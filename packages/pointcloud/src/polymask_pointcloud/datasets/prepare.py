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
from polymask_pointcloud.datasets.raw import FEATURES, Array, Raw, by_area

Normalise = Literal["sphere", "centre", "none"]
Augment = Literal["none", "move"]
_OF_MESH = 2048


class Preparation:
    """What is done to each cloud.

    Args:
        points: points per sample: a random part of larger clouds, and of smaller ones points again; meshes
            are sampled by area. None leaves clouds as they are and takes 2,048 points of a mesh.
        features: names of what stands beside the place of a point: ``"normals"``, ``"colour"``,
            ``"intensity"``. Clouds without are left out.
        normalise: ``"sphere"`` centres on the mean and scales the farthest point to 1, ``"centre"`` centres,
            ``"none"`` leaves places as they are.
        augment: ``"move"`` turns about z, mirrors x and y, and scales, normals with it.
        turn: largest angle, in radians.
        flip: probability of each mirroring.
        scale: range of the factor.
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
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] or not 0 <= flip <= 1:
            raise UserError(f"scale={tuple(scale)}, flip={flip}: give a range above 0, and a probability")
        self.points, self.features, self.normalise, self.augment = points, tuple(features), normalise, augment
        self.turn, self.flip, self.scale = turn, flip, (float(scale[0]), float(scale[1]))

    @property
    def width(self) -> int:
        """Numbers of a point beside its place."""
        return sum(FEATURES[name] for name in self.features)

    def __call__(self, raw: Raw, seed: int | None) -> dict[str, Tensor]:
        """A sample: ``points`` float32 ``[N, 3 + F]``, and ``point_label`` int64 ``[N]`` where there are any.

        Args:
            raw: what was read.
            seed: of which points are taken; None draws from torch's generator and augments.

        Raises:
            BadSample: it lacks a feature.
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
        features = {name: np.asarray(raw.features[name], dtype=np.float64) for name in self.features}
        label = raw.label
        real = np.isfinite(np.concatenate([place, *features.values()], axis=1)).all(1)
        if not real.any():
            raise BadSample("no point is finite")
        if not real.all():
            place, features = place[real], {name: x[real] for name, x in features.items()}
            label = None if label is None else label[real]
        if self.points is not None and len(place) != self.points:
            which = _some(len(place), self.points, random)
            place, features = place[which], {name: x[which] for name, x in features.items()}
            label = None if label is None else label[which]
        place = self._normalised(place)
        if moving:
            matrix, factor = self._motion(random)
            place = factor * place @ matrix.T
            features = {name: x @ matrix.T if name == "normals" else x for name, x in features.items()}
        table = np.concatenate([place, *features.values()], axis=1).astype(np.float32)
        sample = {"points": torch.from_numpy(table)}
        if label is not None:
            sample["point_label"] = torch.from_numpy(np.asarray(label, dtype=np.int64))
        return sample

    def _normalised(self, place: Array) -> Array:
        if self.normalise == "none":
            return place
        place = place - place.mean(0)
        if self.normalise == "centre":
            return place
        return np.asarray(place / max(np.linalg.norm(place, axis=1).max(), 1e-12))

    def _motion(self, random: np.random.Generator) -> tuple[Array, float]:
        """An orthogonal matrix and a factor."""
        angle = random.uniform(-self.turn, self.turn)
        c, s = math.cos(angle), math.sin(angle)
        mirror = np.where(random.random(2) < self.flip, -1.0, 1.0)
        turned = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) * np.array([*mirror, 1.0])
        return turned, random.uniform(*self.scale)


def _some(n: int, count: int, random: np.random.Generator) -> Array:
    """``count`` of n numbers: each at most once, or each as often as any other or once more."""
    rounds = [random.permutation(n) for _ in range(-(-count // n))]
    return np.concatenate(rounds)[:count]
