"""What a file of points or triangles holds."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from polymask.data import BadSample

Array = npt.NDArray[Any]

FEATURES = {"normals": 3, "colour": 3, "intensity": 1}
"""Features by name, and how many numbers each has. Colour and intensity are in [0, 1]."""

_WIDTHS = (255, 65535)
"""The largest of whole numbers of one byte and of two."""


_FARTHEST = 1e18
"""The largest coordinate whose square fits into float32."""


@dataclass(frozen=True, eq=False)
class Raw:
    """Points, or the corners of triangles.

    Args:
        points: float ``[n, 3]``.
        features: by name, ``[n, C]``; names and widths are those of :data:`FEATURES`.
        triangles: int ``[m, 3]``, numbers of corners; None for a cloud.
        label: int ``[n]``, a class of each point of a cloud, -1 where it is not known; None for no classes.
    """

    points: Array
    features: Mapping[str, Array] = field(default_factory=dict)
    triangles: Array | None = None
    label: Array | None = None


def checked(raw: Raw) -> Raw:
    """What was read, if it can be used, as float64; points that are not finite are left out.

    Colours and intensities become 0 to 1, see :func:`scaled`.

    Raises:
        BadSample: nothing there, points all at one place or too far away, features of another number of
            points, or triangles between corners that are not.
    """
    if np.iscomplexobj(raw.points):
        raise BadSample("its coordinates are complex numbers")
    points = np.array(raw.points, dtype=np.float64)  # out of the file, which may be mapped
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise BadSample(f"no points: found an array of shape {list(points.shape)}")
    features = {}
    for name, x in raw.features.items():
        if np.size(x) != FEATURES[name] * len(points):
            raise BadSample(f"{name} of shape {list(np.shape(x))} for {len(points)} points")
        features[name] = scaled(name, np.reshape(x, (len(points), -1)))
    if raw.triangles is not None:
        triangles = _fitting(raw.triangles, len(points))
        if not np.isfinite(points[triangles]).all():
            raise BadSample("corners that are not finite")
        return Raw(points, features, triangles)
    label = None if raw.label is None else np.asarray(raw.label, dtype=np.int64)
    kept = finite(Raw(points, features, label=label))
    axes = np.ascontiguousarray(kept.points.T)
    low, high = axes.min(1), axes.max(1)
    if (low == high).all():
        raise BadSample("all its points are at one place")
    if max(-low.min(), high.max()) > _FARTHEST:
        raise BadSample(f"its coordinates are {low.min():g} to {high.max():g}: squares of these overflow")
    return kept


def finite(raw: Raw) -> Raw:
    """A cloud without the points that have a number which is not finite, in place or features.

    Raises:
        BadSample: all of them have.
    """
    columns = np.concatenate([raw.points, *raw.features.values()], axis=1).T
    # by columns, since it is slow to go over the few numbers of each row
    real = functools.reduce(np.logical_and, np.isfinite(columns))
    if real.all():
        return raw
    if not real.any():
        raise BadSample("no point is finite")
    features = {name: x[real] for name, x in raw.features.items()}
    return Raw(raw.points[real], features, label=None if raw.label is None else raw.label[real])


def _fitting(triangles: Array, corners: int) -> Array:
    """Triangles as int64 ``[m, 3]``, if all are between corners that are there."""
    triangles = np.asarray(triangles, dtype=np.int64).reshape(-1, 3)
    if not len(triangles) or triangles.min() < 0 or triangles.max() >= corners:
        raise BadSample(f"{len(triangles)} triangles between {corners} corners do not fit")
    return triangles


def painted(raw: Raw, colour: Array) -> Raw:
    """A mesh whose triangles have a colour each, ``[m, 3]``: no corner is shared any more."""
    assert raw.triangles is not None
    corner = _fitting(raw.triangles, len(raw.points)).reshape(-1)
    features = {name: np.asarray(x)[corner] for name, x in raw.features.items()}
    features["colour"] = np.repeat(colour, 3, axis=0)
    return Raw(raw.points[corner], features, np.arange(len(corner)).reshape(-1, 3))


def scaled(name: str, x: Array) -> Array:
    """A feature as float64: colours and intensities from 0 to 1, whatever they are stored as.

    Whole numbers of one byte are divided by 255. Wider ones, and fractions of more than 1, are divided by 255
    where none is larger, else by 65,535. Fractions of 0 to 1 stay, and so does what fits none of these.
    """
    x = np.asarray(x)
    whole = np.issubdtype(x.dtype, np.integer)
    value = x.astype(np.float64)
    if name == "normals" or not np.isfinite(value).any():
        return value
    low, high = np.nanmin(value), np.nanmax(value[np.isfinite(value)])
    if low < 0 or high > _WIDTHS[-1] or (high <= 1 and not whole):
        return value
    return np.asarray(value / next(width for width in _WIDTHS if high <= width))


def by_area(raw: Raw, count: int, random: np.random.Generator) -> Raw:
    """Points spread evenly over triangles, with the normals of these (Osada et al. 2002).

    Other features are those of the corners, mixed by how near each is.

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
    share = (1 - root, root * (1 - along), root * along)

    def mixed(x: Array) -> Array:
        corners = raw.triangles[which].T  # type: ignore[index]
        return np.asarray(sum(s * x[corner] for s, corner in zip(share, corners, strict=True)))

    features = {name: mixed(x) for name, x in raw.features.items() if name != "normals"}
    features["normals"] = across[which] / np.maximum(area[which], 1e-300)[:, None]
    return Raw(mixed(raw.points), features)


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
