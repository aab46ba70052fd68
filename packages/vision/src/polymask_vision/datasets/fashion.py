"""8,000 images of Fashion-MNIST that come with this package."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from polymask.data import Split, Splits, whole
from polymask_vision.datasets.memory import Arrays

CLASSES = (
    *("T-shirt", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
SUGGESTED = {"mean": (0.2860,), "std": (0.3530,)}
"""Mean and standard deviation of the 60,000 training images."""


def fashion() -> Splits[Arrays]:
    """A part of Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747), built in.

    Grey, 28 x 28 pixels, 10 classes. The first 600 images of each class of the original training file,
    and the first 200 of each class of the test file. ``fashion-mnist`` is the whole of it.
    """
    return Splits(train=_sheet("train"), test=_sheet("test"), classes=list(CLASSES), suggested=SUGGESTED)


def _sheet(name: str) -> Split[Arrays]:
    """Images of 28 x 28 pixels in rows of a sheet, as many of each class, sorted by class."""
    with files("polymask_vision").joinpath(f"samples/fashion/{name}.png").open("rb") as file:
        sheet = torch.from_numpy(np.array(Image.open(file)))
    images = sheet.unfold(0, 28, 28).unfold(1, 28, 28).reshape(-1, 1, 28, 28)
    labels: Tensor = torch.arange(10).repeat_interleave(len(images) // 10)
    return whole(Arrays(images), labels)
