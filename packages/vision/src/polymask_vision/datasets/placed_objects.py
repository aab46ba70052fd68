"""Digits pasted on photographs, the smaller the further away: made up, with nothing to fetch."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images
from torch import Tensor

from polymask import UserError
from polymask.data import Split, Splits
from polymask.types import Count, Share
from polymask_vision.boxes import BOXES, DISTANCE, some_of
from polymask_vision.datasets.digits import digits

NEAR, FAR = 1.0, 3.0
"""Smallest and largest distance."""

SMALLEST = 0.5
"""Size of a 9, where a 0 has size 1: as a person is smaller than a car at the same distance."""

MOST_HIDDEN = 0.6
"""Share of a box that nearer ones may cover."""

GROUND = 0.7
"""Share of the columns of the photographs that training images lie on."""


def placed_objects(
    *, count: Count = 2000, pixels: Count = 64, objects: tuple[Count, Count] = (2, 5), labelled: Share = 1.0
) -> Splits[PlacedObjects]:
    """Colour images of a few digits on photographs, each in a box, with its ``distance`` in [1, 3].

    A 0 at distance 1 is half as wide as the image, a 9 a quarter, with equal ratios between: how near a digit
    is shows in its size for those who see which digit it is, and not in its box alone. Sides are inverse to
    distances, whose logarithm is uniform. Nearer ones cover those behind them. Digits are scikit-learn's, of
    hands of their own in the test split, the grounds crops of its two photographs at half of their
    brightness, of other columns in the test split. All of this is a fixed function of the number of the
    image.

    Args:
        count: training images; a fifth as many are held out.
        pixels: side of an image, 16 to 192.
        objects: how many are pasted, at least and at most; those that others cover are no objects.
        labelled: share of the training images whose distances are known; the others keep their boxes.
    """
    least, most = objects
    if not 16 <= pixels <= 192:
        raise UserError(f"pixels={pixels}: images are 16 to 192 pixels wide")
    if least > most:
        raise UserError(f"objects={least},{most}: give the smaller number first")
    held = max(count // 5, 1)
    found = digits()
    halves = found.train, found.test
    given = [split.source.images[split.index][:, 0] for split in halves]
    sizes = [SMALLEST ** (torch.as_tensor(split.labels) / 9) for split in halves]
    source = PlacedObjects(given, sizes, (count, held), pixels, (least, most))
    every = torch.arange(count + held)
    splits = Splits(train=Split(source, every[:count]), test=Split(source, every[count:]))
    chosen = some_of(splits.train.names(), labelled)
    source.unknown = frozenset(every[:count][~chosen].tolist())
    return splits


class PlacedObjects:
    """Images by number, each drawn when it is asked for.

    Args:
        digits: of training and held-out images, uint8 ``[n, 8, 8]`` each.
        sizes: of the same digits, float ``[n]`` each; 1 is half as wide as the image at distance 1.
        counts: training and held-out images.
        pixels: side of an image.
        objects: how many are pasted, at least and at most.
    """

    unknown: frozenset[int] = frozenset()
    """Numbers of images whose distances are withheld."""

    def __init__(
        self,
        digits: list[Tensor],
        sizes: list[Tensor],
        counts: tuple[int, int],
        pixels: int,
        objects: tuple[int, int],
    ) -> None:
        # opaque where a stroke is; scikit-learn's digits fill only part of their 8 x 8 pixels
        self.digits = [each.float() / each.amax() for each in digits]
        self.sizes, self.counts, self.pixels, self.number = sizes, counts, pixels, objects
        grounds = np.stack(load_sample_images().images)
        self.grounds = torch.from_numpy(grounds).permute(0, 3, 1, 2).float() / 2

    def __len__(self) -> int:
        return sum(self.counts)

    def name(self, index: int) -> str:
        return f"image {index}"

    def read(self, index: int) -> Tensor:
        """uint8 ``[3, pixels, pixels]``."""
        return self._draw(index)[0]

    def objects(self, index: int) -> dict[str, Tensor]:
        return self._draw(index)[1]

    def _draw(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        chance, p = torch.Generator().manual_seed(index), self.pixels
        number = int(torch.randint(self.number[0], self.number[1] + 1, (), generator=chance))
        draws = torch.rand(number, 7, generator=chance)
        away = NEAR * (FAR / NEAR) ** draws[:, 0]
        order = away.argsort(descending=True)
        draws, away = draws[order], away[order]
        image = self._ground(index, torch.rand(3, generator=chance))
        owner = torch.full((p, p), -1)  # which object is nearest at each pixel
        boxes = []
        known, sizes = self.digits[index >= self.counts[0]], self.sizes[index >= self.counts[0]]
        for k, (draw, distance) in enumerate(zip(draws, away.tolist(), strict=True)):
            which = int(draw[3] * len(known))
            side = max(round(p / 2 * float(sizes[which]) / distance), 2)
            top, left = (int(share * (p - side + 1)) for share in draw[1:3].tolist())
            digit = known[which][None, None]
            opacity = F.interpolate(digit, (side, side), mode="bilinear", align_corners=False)[0]
            colour = 255 * (0.4 + 0.6 * draw[4:7])[:, None, None]
            part = image[:, top : top + side, left : left + side]
            part.copy_(torch.lerp(part, colour.expand_as(part), opacity.expand_as(part)))
            owner[top : top + side, left : left + side] = k
            boxes.append((left, top, left + side, top + side))
        box = torch.tensor(boxes, dtype=torch.float32)
        area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
        seen = torch.stack([(owner == k).sum() for k in range(number)]) / area
        kept = seen >= 1 - MOST_HIDDEN  # never the nearest
        # what is told is the distance drawn, the side being rounded to pixels
        told = torch.full_like(away, math.nan) if index in self.unknown else away
        return image.round().to(torch.uint8), {BOXES: box[kept], DISTANCE: told[kept]}

    def _ground(self, index: int, chance: Tensor) -> Tensor:
        """A crop of one of the photographs, float ``[3, pixels, pixels]`` in 0 to 127."""
        columns = self.grounds.shape[3]
        middle = round(GROUND * columns)
        first, last = (0, middle) if index < self.counts[0] else (middle, columns)
        which = int(chance[0] * len(self.grounds))
        top = int(chance[1] * (self.grounds.shape[2] - self.pixels + 1))
        left = first + int(chance[2] * (last - first - self.pixels + 1))
        return self.grounds[which, :, top : top + self.pixels, left : left + self.pixels].clone()
