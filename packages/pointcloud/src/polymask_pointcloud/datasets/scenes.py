"""Two real scenes that come with scikit-image and matplotlib, cut into tiles."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import uniform_filter

from polymask import UserError
from polymask.data import Splits, whole
from polymask.types import Count, Share
from polymask_pointcloud.datasets.base import Clouds
from polymask_pointcloud.datasets.raw import Array, Raw

_DEGREE = 111_195.0
"""Metres of a degree of latitude on a sphere as large as the earth."""

_RELIEF = 21
"""Cells, each way, of the window whose mean height tells valleys from ridges."""


@dataclass(frozen=True, eq=False)
class Raster:
    """A scene as a camera or a survey has it: at most one point at each place of a grid.

    Args:
        points: float ``[H, W, 3]`` in metres, z up; NaN where there is none.
        features: by name, ``[H, W, C]``.
        measures: by name, ``[H, W]``, what classes of points can be made from; NaN where not known.
    """

    points: Array
    features: Mapping[str, Array]
    measures: Mapping[str, Array]


def scenes(
    *,
    source: str | None = None,
    tile: Count = 48,
    stride: Count = 16,
    label: str | None = None,
    bands: Count = 4,
    test: Share = 0.3,
) -> Splits[Tiles]:
    """Tiles of a room with a motorcycle and of a stretch of mountains, with a class at each point.

    ``motorcycle`` is a pair of photographs with measured disparities (Scharstein et al. 2014, in
    scikit-image): 340,000 points two to five metres away, in colour. ``terrain`` is heights around Jacksboro,
    Tennessee (in matplotlib): 139,000 points some 80 metres apart. A tile is a square of either grid.

    Test tiles are those of the last columns of each grid, with half a tile between them and what is trained
    on. They do not overlap; training tiles do.

    Classes are equal shares of the training points by a measure: at the motorcycle ``distance`` from the
    camera, or ``brightness``; in the mountains ``relief``, which is height over the mean of 21 x 21 cells
    around, or ``height``. Tiles are centred and scaled, so that distance and height are not simply given; nor
    should brightness be, by colour.

    Args:
        source: ``motorcycle``, ``terrain``, or None for both (``scenes:terrain``).
        tile: side of a tile in places of the grid.
        stride: from one training tile to the next.
        label: what point classes are of; None for distance and relief.
        bands: classes of each scene.
        test: share of the columns to hold out.
    """
    if source is not None and source not in SCENES:
        raise UserError(f"scenes:{source}: choose {' or '.join(SCENES)}, or neither for both")
    if tile < 2 or stride < 1 or bands < 2 or not 0 < test < 1:
        raise UserError(
            f"tile={tile}, stride={stride}, bands={bands}, test={test}: a tile is 2 places wide or more, "
            "a stride 1 or more, there are 2 classes or more, and test is a share between 0 and 1"
        )
    tiles = Tiles(tile)
    train: list[int] = []
    for name in [source] if source else SCENES:
        raster, default = SCENES[name]()
        chosen = label or default
        if chosen not in raster.measures:
            raise UserError(
                f"scenes: {name} has no label {chosen}; it has {', '.join(raster.measures)}: choose among "
                "these, or the other scene alone"
            )
        columns = raster.points.shape[1]
        held = columns - round(test * columns)
        measure = raster.measures[chosen]
        classes = _banded(measure, measure[:, : held - tile // 2], bands, len(tiles.point_classes))
        tiles.point_classes += [f"{chosen} {i + 1} of {bands}, {name}" for i in range(bands)]
        before = len(tiles)
        tiles.add(name, raster, classes, 0, held - tile // 2, stride)
        train += range(before, len(tiles))
        tiles.add(name, raster, classes, held, columns, tile)
    every = whole(tiles)
    is_train = torch.isin(torch.arange(len(tiles)), torch.tensor(train, dtype=torch.long))
    if not is_train.any() or is_train.all():
        raise UserError(f"no tile of {tile} x {tile} fits on either side of {test:.0%} held-out columns")
    return Splits(train=every.at(is_train), test=every.at(~is_train))


def example_source(folder: object) -> str:
    """The one that needs nothing beside."""
    return "terrain"


class Tiles(Clouds):
    """Squares of rasters, at least half full of points.

    Args:
        side: of a square, in places.
    """

    def __init__(self, side: int) -> None:
        self.side = side
        self.point_classes: list[str] = []
        self.scenes: dict[str, tuple[Raster, Array]] = {}
        self.corners: list[tuple[str, int, int]] = []

    def add(self, name: str, raster: Raster, label: Array, first: int, last: int, stride: int) -> None:
        """The tiles between two columns of a scene with classes ``[H, W]``."""
        self.scenes[name] = raster, label
        # those of all scenes
        known = raster.features if self.features is None else self.features
        self.features = [one for one in known if one in raster.features]
        there: Array = np.asarray(np.isfinite(raster.points).all(axis=2))
        side = self.side
        self.corners += [
            (name, top, left)
            for top in range(0, len(there) - side + 1, stride)
            for left in range(first, last - side + 1, stride)
            if there[top : top + side, left : left + side].mean() >= 0.5
        ]

    def __len__(self) -> int:
        return len(self.corners)

    def read(self, index: int) -> Raw:
        scene, top, left = self.corners[index]
        raster, label = self.scenes[scene]

        def cut(x: Array) -> Array:
            part = x[top : top + self.side, left : left + self.side]
            return part.reshape(self.side**2, *part.shape[2:])

        features = {name: cut(raster.features[name]) for name in self.features or ()}
        return Raw(cut(raster.points), features, label=cut(label))

    def name(self, index: int) -> str:
        scene, top, left = self.corners[index]
        return f"{scene} at row {top}, column {left}"


def _motorcycle() -> tuple[Raster, str]:
    try:
        from skimage.data import stereo_motorcycle
    except ImportError as error:
        raise UserError(
            "the scene motorcycle comes with scikit-image: pip install 'polymask-pointcloud[scenes]'; "
            "scenes:terrain needs nothing"
        ) from error
    photograph, _, disparity = stereo_motorcycle()  # type: ignore[no-untyped-call]
    # of the left camera, as scikit-image states them: pixels, and metres
    focal, across, down, shift, baseline = 994.978, 311.193, 254.877, 31.086, 0.193001
    depth = np.where(np.isfinite(disparity), baseline * focal / (disparity + shift), np.nan)
    row, column = np.indices(depth.shape)
    x, z = (column - across) * depth / focal, (down - row) * depth / focal
    points = np.stack([x, depth, z], axis=-1).astype(np.float32)
    colour = (photograph / 255).astype(np.float32)
    grey = colour.mean(-1, keepdims=True)
    features = {"normals": _normals(points, towards=np.zeros(3)), "colour": colour, "intensity": grey}
    return Raster(points, features, {"distance": depth, "brightness": grey[..., 0]}), "distance"


def _terrain() -> tuple[Raster, str]:
    from matplotlib.cbook import get_sample_data

    with np.load(get_sample_data("jacksboro_fault_dem.npz", asfileobj=False)) as file:
        height = file["elevation"].astype(np.float64)
        dx, dy, north, south = (float(file[name]) for name in ("dx", "dy", "ymin", "ymax"))
    row, column = np.indices(height.shape)
    east = math.cos(math.radians((north + south) / 2)) * _DEGREE * dx
    points = np.stack([east * column, -_DEGREE * dy * row, height], axis=-1).astype(np.float32)
    relief = height - uniform_filter(height, _RELIEF)
    margin = _RELIEF // 2
    known = np.zeros(height.shape, dtype=bool)
    known[margin:-margin, margin:-margin] = True
    features = {"normals": _normals(points, towards=np.array([0, 0, 1e9]))}
    return Raster(points, features, {"height": height, "relief": np.where(known, relief, np.nan)}), "relief"


SCENES: Mapping[str, Callable[[], tuple[Raster, str]]] = {"motorcycle": _motorcycle, "terrain": _terrain}
"""Each with the measure that its points are told apart by unless another is asked for."""


def _normals(points: Array, towards: Array) -> Array:
    """Across the surface of a raster, on the side of a viewer; NaN beside what is missing."""
    points = points.astype(np.float64)
    down, across = np.gradient(points, axis=(0, 1))
    normal = np.cross(across, down)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    away = (normal * (towards - points)).sum(-1, keepdims=True) < 0
    turned: Array = np.where(away, -normal, normal).astype(np.float32)
    return turned


def _banded(measure: Array, known: Array, bands: int, first: int) -> Array:
    """Classes from ``first`` on, equal shares of what is known; -1 where the measure is not."""
    edges = np.nanquantile(known, np.arange(1, bands) / bands)
    return np.where(np.isfinite(measure), first + np.searchsorted(edges, measure, side="right"), -1)
