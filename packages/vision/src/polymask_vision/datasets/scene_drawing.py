"""Things on a ground, drawn: their image, how near each pixel is, and what it is of."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

Array = npt.NDArray[Any]

COLOURS = {
    "red": (205, 50, 45),
    "blue": (45, 75, 205),
    "yellow": (230, 200, 50),
    "purple": (140, 55, 165),
    "black": (35, 35, 35),
    "white": (235, 235, 235),
}
SKY, GROUND, HORIZON = (170, 200, 230), (110, 150, 90), 0.3
"""Colours, and where the sky ends, as a share of the height."""

SHAPES = ("circle", "square", "triangle", "diamond", "cross")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Thing:
    """One thing of a scene.

    Args:
        kind: number of its shape or digit.
        colour: by name.
        size: height on the image, as a share of that.
        distance: from 1, the near end of the ground, to 4.
        x: of its middle, as a share of the width.
        example: which of the drawings of a digit.
    """

    kind: int
    colour: str
    size: float
    distance: float
    x: float
    example: int


def render(scene: Sequence[Thing], pixels: int, digits: bool) -> tuple[Array, Array, Array]:
    """Image uint8 ``[3, H, W]``, nearness float32 ``[H, W]``, classes int64 ``[H, W]``."""
    row = (np.arange(pixels) + 0.5) / pixels
    nearness = np.clip((row - HORIZON) / (1 - HORIZON), 0, 1).astype(np.float32)
    nearness = np.repeat(nearness[:, None], pixels, axis=1)
    classes = (nearness > 0).astype(np.int64)
    colours = np.where(classes[..., None] > 0, np.array(GROUND), np.array(SKY)).astype(np.float64)
    for thing in sorted(scene, key=lambda one: -one.distance):
        bottom = HORIZON + (1 - HORIZON) / thing.distance
        v = 2 * (row[:, None] - bottom) / thing.size + 1
        u = 2 * (row[None, :] - thing.x) / thing.size
        inside = _digit(thing, u, v) if digits else _shape(thing.kind, u, v)
        colours[inside] = COLOURS[thing.colour]
        nearness[inside] = 1 / thing.distance
        classes[inside] = 2 + thing.kind
    haze = 0.5 * (1 - nearness[..., None]) * (classes[..., None] > 0)
    image = colours + haze * (np.array(SKY) - colours)
    return image.round().astype(np.uint8).transpose(2, 0, 1), nearness, classes


def _shape(kind: int, u: Array, v: Array) -> Array:
    """Which places of a square from -1 to 1 a shape covers."""
    inside = (abs(u) <= 1) & (abs(v) <= 1)
    cover = {
        "circle": u**2 + v**2 <= 1,
        "square": inside,
        "triangle": abs(u) <= (v + 1) / 2,
        "diamond": abs(u) + abs(v) <= 1,
        "cross": (abs(u) <= 0.35) | (abs(v) <= 0.35),
    }
    found: Array = cover[SHAPES[kind]] & inside
    return found


def _digit(thing: Thing, u: Array, v: Array) -> Array:
    """Which places the strokes of a handwritten digit cover."""
    drawings = _digits()[thing.kind]
    at = torch.from_numpy(np.stack(np.broadcast_arrays(u, v), axis=-1)).float()[None]
    ink = F.grid_sample(drawings[thing.example % len(drawings)][None, None], at, align_corners=False)
    found: Array = (ink[0, 0] > 0.5).numpy()
    return found


@functools.cache
def _digits() -> list[Tensor]:
    """Ink in [0, 1], ``[n, 8, 8]`` of each digit."""
    found = load_digits()
    return [torch.from_numpy(found.images[found.target == k]).float() / 16 for k in range(10)]
