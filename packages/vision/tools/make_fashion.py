"""Makes the pictures that come with the package, out of all of Fashion-MNIST.

    python packages/vision/tools/make_fashion.py

The first 600 images of each class of the training file and the first 200 of each class of the test
file, sorted by class, in sheets of 50 images a row: what ``polymask_vision.datasets.fashion`` reads.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from polymask_vision.datasets.fashion_mnist import fashion_mnist

OUT = Path(__file__).parents[1] / "src/polymask_vision/samples/fashion"
PER_CLASS = {"train": 600, "test": 200}
PER_ROW = 50


def main() -> None:
    """Write both sheets."""
    found = fashion_mnist()
    for name, split in (("train", found.train), ("test", found.test)):
        assert split.labels is not None
        labels = split.labels.numpy()
        first = np.concatenate([np.flatnonzero(labels == c)[: PER_CLASS[name]] for c in range(10)])
        images = np.stack([split.source.read(i)[0] for i in first])
        rows = images.reshape(-1, PER_ROW, 28, 28).transpose(0, 2, 1, 3).reshape(-1, PER_ROW * 28)
        path = OUT / f"{name}.png"
        Image.fromarray(rows).save(path, optimize=True)
        print(f"{path}: {len(images)} images, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
