"""Drawn scenes of discs, squares and triangles, in two looks: made up, small, with nothing to fetch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from polymask import UserError
from polymask.data import Splits, divide, whole
from polymask.types import Count, Share
from polymask_vision.datasets.maps import LABELS

CLASSES = ("ground", "disc", "square", "triangle")

THINGS = 4
"""Things in a scene; later ones hide earlier ones."""

HUES = ((0.85, 0.30, 0.25), (0.25, 0.65, 0.35), (0.30, 0.40, 0.85))
"""Mean colour of each kind of thing; those of single things differ by up to 0.25 in each channel."""


def drawn_scenes(
    *,
    look: Literal["plain", "striped"] = "plain",
    count: Count = 400,
    pixels: Count = 32,
    seed: int = 0,
    test: Share = 0.25,
) -> Splits[Scenes]:
    """Scenes of four discs, squares and triangles on a ground, with the class of each pixel.

    The ``plain`` look has even colours on a light ground. The ``striped`` one has a darker ground with
    stripes of any direction, less contrast, colours of which red and blue are exchanged in part, and noise:
    the same kinds of scenes, so that a network trained on the one look can be adapted to the other
    (``drawn-domains``).

    Args:
        look: how scenes are drawn.
        count: of scenes, training and test together.
        pixels: height and width of an image.
        seed: of where things lie, and of their colours.
        test: share of the scenes to hold out.
    """
    if look not in ("plain", "striped"):
        raise UserError(f"look={look!r}: choose 'plain' or 'striped'")
    train, held = divide(whole(Scenes(*draw(look, count, pixels, seed))), test)
    return Splits(train=train, test=held)


class Scenes:
    """Drawn images in memory, with the class of each pixel.

    Args:
        images: uint8 ``[n, 3, H, W]``.
        labels: uint8 ``[n, H, W]``.
    """

    map_classes = CLASSES

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.map_labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Tensor:
        return self.images[index]

    def maps(self, index: int) -> dict[str, Tensor]:
        return {LABELS: self.map_labels[index].long()}

    def name(self, index: int) -> str:
        return f"scene {index}"


def draw(look: str, count: int, pixels: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images uint8 ``[n, 3, H, W]`` and classes uint8 ``[n, H, W]``; x and y run from -1 to 1."""
    chance = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=chance)

    y_HW, x_HW = torch.meshgrid(*[(torch.arange(pixels) + 0.5) * 2 / pixels - 1] * 2, indexing="ij")
    image = uniform(0.7, 0.95, 3)[..., None, None].expand(-1, -1, pixels, pixels)
    if look == "striped":
        angle, wave = uniform(0, torch.pi)[:, None, None], uniform(4, 12)[:, None, None]
        stripes = (wave * torch.pi * (angle.cos() * x_HW + angle.sin() * y_HW)).sin().sign()[:, None]
        image = uniform(0.35, 0.6, 3)[..., None, None] + 0.08 * stripes
    labels = torch.zeros(count, pixels, pixels, dtype=torch.uint8)
    for _ in range(THINGS):
        kind = torch.randint(len(HUES), (count,), generator=chance)
        left, top = (uniform(-0.75, 0.75)[:, None, None] for _ in "xy")
        x, y, size = x_HW - left, y_HW - top, uniform(0.25, 0.45)[:, None, None]
        disc = x.square() + y.square() < size.square()
        square = torch.maximum(x.abs(), y.abs()) < 0.85 * size
        triangle = (y < 0.8 * size) & (y > 2.2 * x.abs() - size)
        inside = torch.stack([disc, square, triangle], dim=1)[torch.arange(count), kind]
        colour = torch.tensor(HUES)[kind] + uniform(-0.25, 0.25, 3)
        if look == "striped":
            colour = 0.15 + 0.6 * torch.lerp(colour, colour.flip(1), 0.2)
        image = torch.where(inside[:, None], colour[..., None, None], image)
        labels = torch.where(inside, (kind + 1).to(torch.uint8)[:, None, None], labels)
    if look == "striped":
        image = image + 0.04 * torch.randn(image.shape, generator=chance)
    return (image.clamp(0, 1) * 255).round().to(torch.uint8), labels
