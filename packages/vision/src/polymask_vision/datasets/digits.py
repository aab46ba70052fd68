"""Handwritten digits of 8 x 8 pixels, from scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.datasets import load_digits

from polymask.portions import Portion
from polymask_vision.datasets.base import Arrays, ImageDataset
from polymask_vision.datasets.prepare import Augment, Preparation


class Digits(ImageDataset):
    """1,797 grey digits of 8 x 8 pixels (Alpaydin and Kaynak 1998), which scikit-learn brings along.

    Test is the last fifth of each class in the order of the file, which goes by writer: digits of other
    hands than those trained on, 1,442 against 355.

    Args:
        size: height and width to scale to; 8 as they are.
        augment: random augmentation in training.
        crop_scale: areas of ``crop-flip``, as shares of the picture.
        limit: at most so many images of each split.
    """

    def __init__(
        self,
        *,
        size: int | Sequence[int] = 8,
        augment: Augment = "none",
        crop_scale: Sequence[float] = (0.2, 1.0),
        limit: int | None = None,
    ) -> None:
        digits = load_digits()
        images = torch.from_numpy((digits.images * (255 / 16)).round().astype(np.uint8))[:, None]
        labels = torch.from_numpy(digits.target.astype(np.int64))
        test = torch.zeros(len(labels), dtype=torch.bool)
        for c in range(10):
            members = (labels == c).nonzero()[:, 0]
            test[members[-(len(members) // 5) :]] = True
        train, held = (Portion(Arrays(images), mine.nonzero()[:, 0], labels[mine]) for mine in (~test, test))
        super().__init__(
            train,
            held,
            Preparation(size=size, mean=(0.3053,), std=(0.3760,), augment=augment, crop_scale=crop_scale),
            classes=[str(c) for c in range(10)],
            limit=limit,
        )
