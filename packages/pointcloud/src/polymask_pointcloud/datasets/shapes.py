"""CAD shapes that come with this package."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from importlib.resources import files

import numpy as np
import torch

from polymask.data import class_numbers, whole
from polymask_pointcloud.datasets.base import CloudDataset
from polymask_pointcloud.datasets.prepare import Augment, Preparation
from polymask_pointcloud.datasets.raw import Array, Raw

STEP = 2.0**-14
"""Of the coordinates stored, as a share of the radius of the sphere that a shape is scaled into."""


class Shapes(CloudDataset):
    """480 CAD shapes of electronic components in 8 classes, 1,024 points each, from KiCad's library.

    Licence: CC BY-SA 4.0, attribution beside the data.
    384 to train on and 96 to test on, 60 of a class together. ``cad`` is the whole library, and says what
    classes are and why the split keeps families apart.

    Args:
        points: points per sample, 1,024 at most without repetition.
        augment: ``"move"`` turns about z, mirrors and scales in training.
        turn: largest angle of a move, in radians.
        flip: probability of mirroring x, and of mirroring y.
        scale: range of the factor of a move.
        limit: at most so many shapes of each split.
    """

    def __init__(
        self,
        *,
        points: int = 1024,
        augment: Augment = "none",
        turn: float = math.pi,
        flip: float = 0.0,
        scale: Sequence[float] = (1.0, 1.0),
        limit: int | None = None,
    ) -> None:
        folder = files("polymask_pointcloud").joinpath("samples/shapes")
        listing = json.loads(folder.joinpath("shapes.json").read_text(encoding="utf-8"))
        with folder.joinpath("shapes.npz").open("rb") as file, np.load(file) as archive:
            places = archive["points"]
        classes = sorted({shape["class"] for shape in listing})
        packed = Packed([shape["name"] for shape in listing], places)
        portion = whole(packed, class_numbers((shape["class"] for shape in listing), classes))
        test = torch.tensor([shape["split"] == "test" for shape in listing])
        super().__init__(
            portion.at(~test),
            portion.at(test),
            Preparation(points=points, augment=augment, turn=turn, flip=flip, scale=scale),
            classes=classes,
            limit=limit,
        )


class Packed:
    """Clouds in memory, in steps of a small fraction.

    Args:
        names: ``LIBRARY/SHAPE`` of each.
        places: int16 ``[n, points, 3]``.
    """

    def __init__(self, names: Sequence[str], places: Array) -> None:
        self.names, self.places = list(names), places

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Raw:
        return Raw(self.places[index] * STEP)

    def name(self, index: int) -> str:
        return self.names[index]
