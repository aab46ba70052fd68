"""Handwritten digits of 8 x 8 pixels, from scikit-learn."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits

from polymask.data import Split, Splits
from polymask_vision.datasets.memory import Arrays


def digits() -> Splits[Arrays]:
    """1,797 grey digits of 8 x 8 pixels (Alpaydin and Kaynak 1998), which scikit-learn brings along.

    Test is the last fifth of each class in the order of the file, which goes by writer: digits of other
    hands than those trained on, 1,442 against 355.
    """
    found = load_digits()
    images = torch.from_numpy((found.images * (255 / 16)).round().astype(np.uint8))[:, None]
    labels = torch.from_numpy(found.target.astype(np.int64))
    test = torch.zeros(len(labels), dtype=torch.bool)
    for c in range(10):
        members = (labels == c).nonzero()[:, 0]
        test[members[-(len(members) // 5) :]] = True
    train, held = (Split(Arrays(images), mine.nonzero()[:, 0], labels[mine]) for mine in (~test, test))
    return Splits(
        train=train,
        test=held,
        classes=[str(c) for c in range(10)],
        suggested={"mean": (0.3053,), "std": (0.3760,)},
    )
