"""8,000 pictures of Fashion-MNIST that come with this package."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from polymask.portions import Portion, whole
from polymask_vision.datasets.base import Arrays, ImageDataset
from polymask_vision.datasets.prepare import Augment, Preparation

CLASSES = (
    *("T-shirt", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
MEAN, STD = 0.2860, 0.3530
"""Of the 60,000 training images."""


class Fashion(ImageDataset):
    """A part of Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747), built in.

    Grey, 28 x 28 pixels, 10 classes. The first 600 images of each class of the original training file,
    and the first 200 of each class of the test file. ``fashion-mnist`` is the whole of it.

    Args:
        size: height and width to scale to; 28 as they are.
        augment: random augmentation in training.
        crop_scale: areas of ``crop-flip``, as shares of the picture.
        limit: at most so many images of each split.
    """

    def __init__(
        self,
        *,
        size: int | Sequence[int] = 28,
        augment: Augment = "none",
        crop_scale: Sequence[float] = (0.2, 1.0),
        limit: int | None = None,
    ) -> None:
        super().__init__(
            _sheet("train"),
            _sheet("test"),
            Preparation(size=size, mean=(MEAN,), std=(STD,), augment=augment, crop_scale=crop_scale),
            classes=list(CLASSES),
            limit=limit,
        )


def _sheet(name: str) -> Portion[Arrays]:
    """Images of 28 x 28 pixels in rows of a sheet, as many of each class, sorted by class."""
    with files("polymask_vision").joinpath(f"samples/fashion/{name}.png").open("rb") as file:
        sheet = torch.from_numpy(np.array(Image.open(file)))
    images = sheet.unfold(0, 28, 28).unfold(1, 28, 28).reshape(-1, 1, 28, 28)
    labels: Tensor = torch.arange(10).repeat_interleave(len(images) // 10)
    return whole(Arrays(images), labels)
