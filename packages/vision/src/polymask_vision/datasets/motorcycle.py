"""A rectified pair of photographs with measured disparities, cut into tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from polymask import UserError
from polymask.data import Splits, whole
from polymask.types import Count, Share
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
    try:
        from skimage.data import stereo_motorcycle
    except ImportError as error:
        raise UserError(
            "motorcycle comes with scikit-image: pip install 'polymask-vision[stereo]'; pairs:FOLDER reads "
            "pairs of your own"
        ) from error
    left, right, disparity = stereo_motorcycle()  # type: ignore[no-untyped-call]
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
