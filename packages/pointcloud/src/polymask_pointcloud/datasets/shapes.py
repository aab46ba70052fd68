"""CAD shapes that come with this package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files

import numpy as np
import torch

from polymask.data import Splits, class_names, class_numbers, whole
from polymask_pointcloud.datasets.base import Clouds
from polymask_pointcloud.datasets.raw import Array, Raw

STEP = 2.0**-14
"""Of the coordinates stored, as a share of the radius of the sphere that a shape is scaled into."""


def shapes() -> Splits[Packed]:
    """480 CAD shapes of electronic components in 8 classes, 1,024 points each, from KiCad's library.

    Licence: CC BY-SA 4.0, attribution beside the data.
    384 to train on and 96 to test on, 60 of a class together. ``cad`` is the whole library, and says what
    classes are and why the split keeps families apart.
    """
    folder = files("polymask_pointcloud").joinpath("samples/shapes")
    listing = json.loads(folder.joinpath("shapes.json").read_text(encoding="utf-8"))
    with folder.joinpath("shapes.npz").open("rb") as file, np.load(file) as archive:
        places = archive["points"]
    classes = class_names(shape["class"] for shape in listing)
    packed = Packed([shape["name"] for shape in listing], places)
    every = whole(packed, class_numbers((shape["class"] for shape in listing), classes))
    test = torch.tensor([shape["split"] == "test" for shape in listing])
    return Splits(train=every.at(~test), test=every.at(test), classes=classes)


class Packed(Clouds):
    """Clouds in memory, in steps of a small fraction.

    Args:
        names: ``LIBRARY/SHAPE`` of each.
        places: int16 ``[n, points, 3]``.
    """

    features = ()

    def __init__(self, names: Sequence[str], places: Array) -> None:
        self.names, self.places = list(names), places

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Raw:
        return Raw(self.places[index] * STEP)

    def name(self, index: int) -> str:
        return self.names[index]
