"""Images in memory."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


class Arrays:
    """Images in memory.

    Args:
        images: uint8 ``[n, C, H, W]``.
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Tensor:
        return self.images[index]

    def name(self, index: int) -> str:
        return f"image {index}"


class Ready:
    """Samples prepared once and for all, each under some keys."""

    def __init__(self, images: Tensor, keys: Sequence[str]) -> None:
        self.images, self.keys = images, keys

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return dict.fromkeys(self.keys, self.images[index])
