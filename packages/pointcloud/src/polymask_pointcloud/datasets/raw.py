"""What a file of points or triangles holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from polymask.data import BadSample

Array = npt.NDArray[Any]

FEATURES = {"normals": 3, "colour": 3, "intensity": 1}
"""Features by name, and how many numbers each has. Colour and intensity are in [0, 1]."""


@dataclass(frozen=True, eq=False)
class Raw:
    """Points, or the corners of triangles.

    Args:
        points: float ``[n, 3]``.
        features: by name, float ``[n, C]``; names and widths are those of :data:`FEATURES`.
        triangles: int ``[m, 3]``, numbers of corners; None for a cloud.
        label: int ``[n]``, a class of each point of a cloud, -1 where it is not known; None for no classes.
    """

    points: Array
    features: Mapping[str, Array] = field(default_factory=dict)
    triangles: Array | None = None
    label: Array | None = None


def checked(raw: Raw) -> Raw:
    """What was read, if it can be used; points that are not finite are left out.

    Raises:
        BadSample: nothing there, or triangles between corners that are not.
    """
    points = np.asarray(raw.points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise BadSample(f"no points: found an array of shape {list(points.shape)}")
    if raw.triangles is not None:
        triangles = np.asarray(raw.triangles, dtype=np.int64).reshape(-1, 3)
        if not len(triangles) or triangles.min() < 0 or triangles.max() >= len(points):
            raise BadSample(f"{len(triangles)} triangles between {len(points)} corners do not fit")
        if not np.isfinite(points[triangles]).all():
            raise BadSample("corners that are not finite")
        return Raw(points, raw.features, triangles)
    features = {
        name: np.asarray(x, dtype=np.float64).reshape(len(points), -1) for name, x in raw.features.items()
    }
    real = np.isfinite(np.concatenate([points, *features.values()], axis=1)).all(1)
    if not real.any():
        raise BadSample("no point is finite")
    label = None if raw.label is None else np.asarray(raw.label, dtype=np.int64)[real]
    return Raw(points[real], {name: x[real] for name, x in features.items()}, label=label)


def by_area(raw: Raw, count: int, random: np.random.Generator) -> Raw:
    """Points spread evenly over triangles, with their normals (Osada et al. 2002).

    Raises:
        BadSample: the triangles have no area.
    """
    assert raw.triangles is not None
    a, b, c = (raw.points[raw.triangles[:, i]] for i in range(3))
    across = np.cross(b - a, c - a)
    area = np.linalg.norm(across, axis=1)
    if not area.sum() > 0:
        raise BadSample("its triangles have no area")
    # a sorted draw per share of the area, so that no triangle is hit by chance alone
    at = (np.arange(count) + random.random(count)) / count * area.sum()
    which = np.searchsorted(np.cumsum(area), at).clip(max=len(area) - 1)
    which = random.permutation(which)
    root, along = np.sqrt(random.random((count, 1))), random.random((count, 1))
    points = (1 - root) * a[which] + root * (1 - along) * b[which] + root * along * c[which]
    normals = across[which] / np.maximum(area[which], 1e-300)[:, None]
    return Raw(points, {"normals": normals})


def fan(corners: Array) -> Array:
    """Polygons, corner by corner and each ended by -1, as triangles ``[m, 3]`` around their first corners."""
    corners = np.asarray(corners, dtype=np.int64)
    if not len(corners):
        return np.empty((0, 3), dtype=np.int64)
    if corners[-1] != -1:
        corners = np.append(corners, -1)
    end = np.flatnonzero(corners == -1)
    start = np.concatenate([[0], end[:-1] + 1]).astype(np.int64)
    count = np.maximum(end - start - 2, 0)
    first = np.repeat(start, count)
    step = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return np.stack([corners[first], corners[first + step + 1], corners[first + step + 2]], axis=1)
