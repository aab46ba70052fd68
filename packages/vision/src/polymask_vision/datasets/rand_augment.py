"""RandAugment and random erasing, as masked autoencoders are fine-tuned with, by timm."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torchvision.transforms.v2.functional as F
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor

RECIPE = "rand-m9-mstd0.5-inc1"
"""Two operations of each image, at a magnitude about 9 of 10; a greater one always changes more."""

ERASED = 0.25
"""Probability that a box of an image becomes noise."""


class RandAugment:
    """Two random operations on an image (Cubuk et al. 2019, arXiv 1909.13719), and noise in a box of it.

    As FINETUNE.md of MAE's release has both. Chance comes from torch's global generator alone.

    Args:
        size: height and width of images.
        mean: per channel, 1 or 3 of them, of values in [0, 1]: what fills what is moved in.
    """

    def __init__(self, size: tuple[int, int], mean: Sequence[float]) -> None:
        fill = tuple(round(255 * value) for value in mean) * (3 // len(mean))
        filled = {"translate_const": int(0.45 * min(size)), "img_mean": fill}
        self._change = rand_augment_transform(RECIPE, {**filled, "interpolation": Image.Resampling.BICUBIC})
        erasing: Any = RandomErasing
        self._erase = erasing(ERASED, mode="pixel", max_count=1, device="cpu")

    def change(self, image: Tensor) -> Tensor:
        """An image ``[C, H, W]``, uint8 or float in [0, 1], after two operations: uint8."""
        with _chance_of_torch():
            changed: Image.Image = self._change(F.to_pil_image(image).convert("RGB"))
        found: Tensor = F.pil_to_tensor(changed if len(image) == 3 else changed.convert("L"))
        return found

    def erase(self, x: Tensor) -> Tensor:
        """A normalised image ``[C, H, W]`` with noise of deviation 1 in a box of it, or as it is."""
        with _chance_of_torch():
            erased: Tensor = self._erase(x.clone())
        return erased


@contextmanager
def _chance_of_torch() -> Iterator[None]:
    """Seed the generators of Python and numpy, which timm draws from, by torch's; then put them back."""
    kept = random.getstate(), np.random.get_state()
    seed = int(torch.randint(2**32, ()))
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
