"""Drawn lines of text along arcs, many of them neighbours, with the outline of each line."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import UserError
from polymask.data import Splits, whole
from polymask.types import Count, Share, Whole
from polymask_vision.boxes import BOXES, POLYGONS
from polymask_vision.datasets.text_strips import Strip, drawn, printed, printed_lines

VERTICES = 16
"""Of an outline, half of them along each side of a line."""


def curved_text(
    *,
    count: Count = 2500,
    pixels: Count = 96,
    dense: Share = 0.5,
    height: Sequence[float] = (9.0, 14.0),
    gap: Sequence[float] = (1.0, 2.0),
    glyphs: Literal["font", "printed"] = "font",
    seed: Whole = 0,
    test: Share = 0.2,
) -> Splits[CurvedText]:
    """Images of text along arcs, with a polygon for each line, drawn when they are asked for.

    The glyphs are real; lines, arcs and colours are made up, a fixed function of the seed and the number of
    an image. In part of the images lines are neighbours on circles of one centre: the box of one holds parts
    of others. In the rest a line stands alone. What is found on these is about mechanisms.

    Args:
        count: how many images.
        pixels: height and width of an image.
        dense: share of images of neighbouring lines.
        height: smallest and largest height of a line in pixels.
        gap: smallest and largest distance of neighbouring lines in pixels.
        glyphs: of Pillow's scalable ``"font"``, or of a ``"printed"`` page, a photograph of scikit-image: six
            lines, the last two of which are for images to test on.
        seed: of all that is drawn.
        test: share of the images to hold out.
    """
    for name, (low, high) in {"height": _two(height, "height"), "gap": _two(gap, "gap")}.items():
        if not 0 < low <= high:
            raise UserError(f"{name} takes two numbers of pixels, 0 < low <= high, got {low}, {high}")
    if 2 * height[1] + gap[1] > pixels / 2:
        raise UserError(
            f"neighbouring lines of {height[1]:g} pixels do not fit into images of {pixels}: give "
            f"--data.pixels {math.ceil(4 * height[1] + 2 * gap[1])} or more, or a smaller --data.height"
        )
    if not 0 <= test < 1 or round(test * count) == count:
        raise UserError(f"test must be a share of the images that leaves some to train on, got {test}")
    held = round(test * count)
    strips: tuple[int, Strip, Strip] = (held, drawn, drawn)
    if glyphs == "printed":
        lines = printed_lines()
        strips = (held, functools.partial(printed, lines[-2:]), functools.partial(printed, lines[:-2]))
    source = CurvedText(count, pixels, dense, _two(height, "height"), _two(gap, "gap"), seed, strips)
    every = whole(source)
    is_test = torch.arange(count) < held
    return Splits(
        train=every.at(~is_test), test=every.at(is_test), suggested={"mean": (0.5,) * 3, "std": (0.25,) * 3}
    )


class CurvedText:
    """Images by number, each drawn when it is first asked for, and then kept.

    Args:
        count: of images.
        pixels: height and width.
        dense: share of images of neighbouring lines.
        height: smallest and largest, of a line.
        gap: smallest and largest, between neighbours.
        seed: of all that is drawn.
        strips: how many images are to test on, the first ones, and what makes straight lines for them and for
            the others.
    """

    def __init__(
        self,
        count: int,
        pixels: int,
        dense: float,
        height: tuple[float, float],
        gap: tuple[float, float],
        seed: int,
        strips: tuple[int, Strip, Strip],
    ) -> None:
        self.count, self.pixels, self.dense = count, pixels, dense
        self.height, self.gap, self.seed, self.strips = height, gap, seed, strips
        self.drawn: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"image {index}"

    def read(self, index: int) -> Tensor:
        """uint8 ``[3, H, W]``."""
        return self._get(index)[0]

    def objects(self, index: int) -> dict[str, Tensor]:
        """Outlines of the lines, ``[lines, 16, 2]``, along the top from the first letter on, and boxes."""
        outline = self._get(index)[1]
        return {BOXES: torch.cat([outline.amin(1), outline.amax(1)], dim=-1), POLYGONS: outline}

    def _get(self, index: int) -> tuple[Tensor, Tensor]:
        if index not in self.drawn:
            self.drawn[index] = self._draw(random.Random(f"{self.seed} {index}"), index)
        return self.drawn[index]

    def _draw(self, chance: random.Random, index: int) -> tuple[Tensor, Tensor]:
        held, *strips = self.strips
        strip = strips[index >= held]
        side = self.pixels
        lines = arcs(chance, side, chance.random() < self.dense, self.height, self.gap)
        ground, ink = _colours(chance)
        image = _ground(chance, side, ground)
        for arc in lines:
            share = arc.ink(strip(chance, arc.length, arc.height), side)
            image = torch.lerp(image, ink, share)
        noise = torch.from_numpy(np.random.default_rng(chance.getrandbits(32)).normal(0, 0.02, image.shape))
        image = (image + noise).clamp(0, 1).mul(255).round().to(torch.uint8)
        return image, torch.stack([arc.outline() for arc in lines])


class Arc:
    """A line of text along a circle.

    Args:
        x: of the centre of the circle.
        y: of the centre.
        radius: of the middle of the line.
        middle: angle of the middle of the line, in radians, 0 upwards.
        length: of the line in pixels.
        height: of the line.
        turned: whether the text stands on the inside of the circle.
    """

    def __init__(
        self, x: float, y: float, radius: float, middle: float, length: float, height: float, turned: bool
    ) -> None:
        self.x, self.y, self.radius, self.middle = x, y, radius, middle
        self.length, self.height, self.turned = length, height, turned

    def outline(self) -> Tensor:
        """Float32 ``[16, 2]``: along the top from the first letter to the last, and back below."""
        along = torch.linspace(-0.5, 0.5, VERTICES // 2) * self.length
        return torch.cat([self._at(along, self.height / 2), self._at(along.flip(0), -self.height / 2)])

    def _at(self, along: Tensor, above: float) -> Tensor:
        sign = -1 if self.turned else 1
        radius, angle = self.radius + sign * above, self.middle + sign * along / self.radius
        return torch.stack([self.x + radius * angle.sin(), self.y - radius * angle.cos()], dim=-1)

    def ink(self, strip: Tensor, side: int) -> Tensor:
        """How much of each pixel is ink, ``[H, W]``, of a straight line of text ``[h, w]``."""
        place = torch.arange(side) + 0.5
        dx, dy = place - self.x, place[:, None] - self.y
        far = (dx.square() + dy.square()).sqrt()
        angle = torch.atan2(dx.expand(side, -1), -dy.expand(-1, side)) - self.middle
        angle = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
        sign = -1 if self.turned else 1
        across, down = (
            sign * angle * self.radius / self.length * 2,
            -sign * (far - self.radius) / self.height * 2,
        )
        grid = torch.stack([across, down], dim=-1)[None]
        return F.grid_sample(strip[None, None], grid, align_corners=False)[0, 0]


def arcs(
    chance: random.Random, side: int, dense: bool, height: tuple[float, float], gap: tuple[float, float]
) -> list[Arc]:
    """Two to four neighbouring lines of an image, or one, all within it."""
    for attempt in range(200):
        room = max(1 - attempt / 200, 0.3)
        tall = chance.uniform(*height)
        between = chance.uniform(*gap)
        number = chance.choice((2, 3, 4) if attempt < 100 else (2,)) if dense else 1
        step = tall + between
        radius = chance.uniform(0.5, 3.0) * side
        if number * step >= radius:
            continue
        turned, middle = chance.random() < 0.5, chance.uniform(-0.5, 0.5)
        centre = [chance.uniform(0.35, 0.65) * side for _ in range(2)]
        upright = math.pi if turned else 0.0
        x, y = (
            centre[0] - radius * math.sin(middle + upright),
            centre[1] + radius * math.cos(middle + upright),
        )
        found = []
        for k in range(number):
            length = chance.uniform(0.45, 0.85) * room * side
            shift = chance.uniform(-0.05, 0.05) * room * side / radius
            own = radius + (k - (number - 1) / 2) * step
            found.append(Arc(x, y, own, middle + upright + shift, length, tall, turned))
        outline = torch.cat([arc.outline() for arc in found])
        if outline.min() >= 0 and outline.max() <= side:
            return found
    tall = min(height[0], side / 4)
    return [Arc(side / 2, 2.5 * side, 2.0 * side, 0.0, side / 2, tall, False)]


def _colours(chance: random.Random) -> tuple[Tensor, Tensor]:
    """Of the ground and of the ink, ``[3, 1, 1]`` each, one of them light."""
    light = torch.tensor([chance.uniform(0.65, 1.0) for _ in range(3)])[:, None, None]
    dark = torch.tensor([chance.uniform(0.0, 0.35) for _ in range(3)])[:, None, None]
    return (light, dark) if chance.random() < 0.5 else (dark, light)


def _ground(chance: random.Random, side: int, colour: Tensor) -> Tensor:
    """A ground that is brighter in some places, ``[3, H, W]``."""
    spots = torch.tensor([chance.uniform(-0.15, 0.15) for _ in range(9)]).view(1, 1, 3, 3)
    return colour + F.interpolate(spots, (side, side), mode="bicubic", align_corners=True)[0]


def _two(values: Sequence[float], name: str) -> tuple[float, float]:
    if len(values) != 2:
        raise UserError(f"{name} takes two numbers, got {values!r}")
    return float(values[0]), float(values[1])
