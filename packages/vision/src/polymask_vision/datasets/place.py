"""Where the pixels of an image are after it was scaled, cropped and flipped."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Place:
    """Where the pixels of an image are after it was scaled, cropped and flipped.

    Args:
        scale: factor by which rows and columns grew.
        corner: rows and columns cut off at the top and at the left, of the scaled image.
        mirror: columns of the result, if it was flipped left to right.
    """

    scale: tuple[float, float]
    corner: tuple[float, float]
    mirror: int | None = None

    def __call__(self, points: Tensor) -> Tensor:
        """Points ``[..., 2]``, x and y from the upper left corner in pixels, of the image before."""
        (rows, columns), (top, left) = self.scale, self.corner
        moved = points * points.new_tensor([columns, rows]) - points.new_tensor([left, top])
        if self.mirror is None:
            return moved
        return points.new_tensor([self.mirror, 0]) + moved * points.new_tensor([-1, 1])


@dataclass(frozen=True)
class Prepared:
    """An image as a system is given it.

    Args:
        image: normalised float32 ``[C, H, W]``.
        maps: of its pixels, moved alike.
        place: where its pixels are.
        clean: the same image before its colours were changed; None if they were not.
    """

    image: Tensor
    maps: dict[str, Tensor]
    place: Place
    clean: Tensor | None
