"""A rectified pair of photographs with measured disparities, cut into tiles, or into tiles with boxes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from polymask import UserError
from polymask.data import Splits, whole
from polymask.types import Count, Share
from polymask_vision.boxes import BOXES, DISTANCE, some_of
from polymask_vision.datasets.maps import VALUES

Array = npt.NDArray[Any]

MOST = 60
"""Largest disparity of the pair, in pixels; the smallest is 7."""


def motorcycle(
    *, tile: Count = 96, stride: Count = 16, shift: Count = 32, test: Share = 0.3
) -> Splits[StereoTiles]:
    """Tiles of two photographs of a motorcycle, taken side by side, with the disparity of each pixel.

    Samples are a tile of the left photograph as ``image``, one of the same rows of the right as ``other``,
    and as ``value_map`` how many pixels further left in the right photograph a point lies, 7 to 60, NaN
    unknown: near things more than far ones. The pair is Middlebury's of 2014 (Scharstein et al.), 741 x 500
    pixels, and comes with scikit-image (extra ``stereo``). It is one scene: what is learned of it is about
    mechanisms.

    Tiles of the right lie ``shift`` columns further left, so that both see the same and nothing lies at the
    same place. Test tiles are of the last columns, with room between that no point is seen on both sides.
    They do not overlap; training tiles do.

    Args:
        tile: side of a tile in pixels.
        stride: from one training tile to the next.
        shift: columns between the two tiles of a pair.
        test: share of the columns to hold out.
    """
    left, right, disparity = _pair_of_photographs()
    if not 0 < shift <= MOST:
        raise UserError(f"shift={shift}: disparities are 7 to {MOST} pixels, give a shift among them")
    height, width = disparity.shape
    held = width - round(test * width)
    corners, sides = [], []
    for first, last, step in ((shift, held - MOST, stride), (held, width, tile)):
        for top in range(0, height - tile + 1, step):
            for column in range(first, last - tile + 1, step):
                corners.append((top, column))
                sides.append(first == held)
    is_test = torch.tensor(sides, dtype=torch.bool)
    if not len(corners) or is_test.all() or not is_test.any():
        raise UserError(
            f"motorcycle: no tile of {tile} pixels fits into {held} columns to train on, or {width - held} "
            "held out: give a smaller --data.tile or another --data.test"
        )
    every = whole(StereoTiles(left, right, disparity, corners, tile, shift))
    return Splits(train=every.at(~is_test), test=every.at(is_test))


def motorcycle_boxes(
    *, tile: Count = 96, stride: Count = 16, boxes: Count = 6, labelled: Share = 1.0, test: Share = 0.3
) -> Splits[TileBoxes]:
    """Tiles of a photograph of a motorcycle, boxes in them, and the measured ``distance`` of what they show.

    The photograph is the left one of :func:`motorcycle`. Boxes are drawn at random, a fixed function of the
    tile, 8 pixels to three quarters of the tile wide; one is kept where the disparity of four fifths of its
    pixels is known, and nine tenths of these lie within a quarter of their median. Its distance is the
    largest disparity of the scene over that median: 1 for what is nearest, 8.6 for what is farthest away. It
    is one scene: what is learned of it is about mechanisms.

    Args:
        tile: side of a tile in pixels.
        stride: from one tile to the next.
        boxes: of a tile, at most.
        labelled: share of the training tiles whose distances are known; the others keep their boxes.
        test: share of the columns to hold out, on the right.
    """
    left, _, disparity = _pair_of_photographs()
    height, width = disparity.shape
    held = width - round(test * width)
    sides = [
        [(top, x) for top in range(0, height - tile + 1, stride) for x in range(low, high - tile + 1, stride)]
        for low, high in ((0, held), (held, width))
    ]
    if not all(sides):
        raise UserError(
            f"motorcycle-boxes: no tile of {tile} pixels fits into {held} columns to train on, or "
            f"{width - held} held out: give a smaller --data.tile or another --data.test"
        )
    source = TileBoxes(StereoTiles(left, left, disparity, sides[0] + sides[1], tile, 0), boxes)
    every = whole(source)
    first = torch.arange(len(source)) < len(sides[0])
    splits = Splits(train=every.at(first), test=every.at(~first))
    chosen = some_of(splits.train.names(), labelled)
    source.unknown = frozenset(splits.train.index[~chosen].tolist())
    return splits


def _pair_of_photographs() -> tuple[Array, Array, Array]:
    """The left, the right, and the disparity of the left, as scikit-image has them.

    Raises:
        UserError: it is not installed.
    """
    try:
        from skimage.data import stereo_motorcycle
    except ImportError as error:
        raise UserError(
            "motorcycle comes with scikit-image: pip install 'polymask-vision[stereo]'; pairs:FOLDER reads "
            "pairs of your own"
        ) from error
    found: tuple[Array, Array, Array] = stereo_motorcycle()  # type: ignore[no-untyped-call]
    return found


class StereoTiles:
    """Squares of a rectified pair, in memory.

    Args:
        left: uint8 ``[H, W, 3]``.
        right: the same.
        disparity: float ``[H, W]``, not finite where unknown.
        corners: top and left of each square of the left photograph.
        side: of a square.
        shift: how many columns further left that of the right is.
    """

    map_classes = None

    def __init__(
        self,
        left: Array,
        right: Array,
        disparity: Array,
        corners: list[tuple[int, int]],
        side: int,
        shift: int,
    ) -> None:
        self.left, self.right = (torch.from_numpy(x.copy()).permute(2, 0, 1) for x in (left, right))
        known = np.where(np.isfinite(disparity), disparity, np.nan)
        self.disparity = torch.from_numpy(known.astype(np.float32))
        self.corners, self.side, self.shift = corners, side, shift

    def __len__(self) -> int:
        return len(self.corners)

    def read(self, index: int) -> Tensor:
        return self._cut(self.left, index)

    def other(self, index: int) -> Tensor:
        return self._cut(self.right, index, self.shift)

    def maps(self, index: int) -> dict[str, Tensor]:
        return {VALUES: self._cut(self.disparity, index)}

    def name(self, index: int) -> str:
        top, left = self.corners[index]
        return f"row {top}, column {left}"

    def _cut(self, x: Tensor, index: int, shift: int = 0) -> Tensor:
        top, left = self.corners[index]
        left -= shift
        return x[..., top : top + self.side, left : left + self.side]


class TileBoxes:
    """Tiles of a photograph with boxes of about one distance each.

    Args:
        tiles: with the disparity of each pixel.
        boxes: of a tile, at most.
    """

    unknown: frozenset[int] = frozenset()
    """Numbers of tiles whose distances are withheld."""

    def __init__(self, tiles: StereoTiles, boxes: int) -> None:
        self.tiles, self.boxes = tiles, boxes

    def __len__(self) -> int:
        return len(self.tiles)

    def read(self, index: int) -> Tensor:
        return self.tiles.read(index)

    def name(self, index: int) -> str:
        return self.tiles.name(index)

    def objects(self, index: int) -> dict[str, Tensor]:
        disparity, side = self.tiles.maps(index)[VALUES], self.tiles.side
        chance = torch.Generator().manual_seed(index)
        found, away = [], []
        largest = 0.75 * side
        for width, height, x, y in torch.rand(5 * self.boxes, 4, generator=chance).tolist():
            columns, rows = (int(8 * (largest / 8) ** each) for each in (width, height))
            left, top = int(x * (side - columns + 1)), int(y * (side - rows + 1))
            part = disparity[top : top + rows, left : left + columns]
            known = part[part.isfinite()]
            if len(known) < 0.8 * part.numel():
                continue
            middle = known.median()
            if ((known / middle).log().abs() < math.log(1.25)).float().mean() < 0.9:
                continue
            found.append((left, top, left + columns, top + rows))
            away.append(math.nan if index in self.unknown else float(MOST / middle))
            if len(found) == self.boxes:
                break
        return {
            BOXES: torch.tensor(found, dtype=torch.float32).view(-1, 4),
            DISTANCE: torch.tensor(away, dtype=torch.float32),
        }
