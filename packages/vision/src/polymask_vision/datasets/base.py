"""The data set of images: what a reader found, brought to one size, normalised and augmented."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from torch import Tensor

from polymask import UserError
from polymask.data import BadSample, FileDataset, Samples, Source, Split, SplitName, Splits
from polymask.types import Count
from polymask_vision.datasets.decode import Raw, decode, header, reason
from polymask_vision.datasets.prepare import IMAGENET, IMAGENET_GREY, Augment, Preparation


class Images(Source, Protocol):
    """Images by number, each read when it is asked for."""

    def read(self, index: int) -> Raw:
        """One image, encoded or decoded."""


class ImageDataset(FileDataset[Images]):
    """What a reader of images found, as samples ``{"image": float32 [C, H, W]}``, normalised.

    Args:
        found: what the reader found.
        size: height and width to scale and crop to. By default that of the images, if it is the same
            for all and at most 224; else 224.
        channels: 1 (grey) or 3; by default 1 if all images are grey.
        mean: per channel, of values in [0, 1]; by default the data set's own where known, else ImageNet's.
        std: standard deviation per channel; by default as the mean.
        augment: random augmentation in training: ``"flip"``, ``"crop-flip"`` or ``"none"``.
        crop_scale: areas of ``crop-flip``, as shares of the image.
        views: 2 to have a second random augmentation of each image, under ``"other"``.
        limit: maximum number of images per split.
    """

    key, what = "image", "images"

    def __init__(
        self,
        found: Splits[Images],
        /,
        *,
        size: Count | Sequence[Count] | None = None,
        channels: Count | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        augment: Augment = "none",
        crop_scale: Sequence[float] = (0.2, 1.0),
        views: Count = 1,
        limit: Count | None = None,
    ) -> None:
        super().__init__(found, limit=limit)
        if views not in (1, 2):
            raise UserError(f"views={views}: a sample has 1 view of an image, or 2")
        size, channels = _shape(found.train, size, channels)
        usual = IMAGENET if channels == 3 else IMAGENET_GREY
        if len(found.suggested.get("mean", ())) == channels:
            usual = found.suggested["mean"], found.suggested["std"]
        mean, std = mean or usual[0], std or usual[1]
        if len(mean) != channels:
            raise UserError(f"mean and std need {channels} numbers, one per channel, got {tuple(mean)}")
        self.preparation = Preparation(size=size, mean=mean, std=std, augment=augment, crop_scale=crop_scale)
        if views == 2 and augment == "none":
            warnings.warn(
                "views=2 with augment='none': both views of an image are the same; choose an augment "
                "(--data.augment crop-flip)",
                stacklevel=2,
            )
        self.keys = ("image", "other")[:views]
        self.provides: dict[str, Any] = {
            "size": self.preparation.size,
            "channels": self.preparation.channels,
            "mean": self.preparation.mean,
            "std": self.preparation.std,
            "samples": len(self.splits["train"]),
        }

    def split(self, name: SplitName, *, augment: bool = False) -> Samples:
        """Samples of a split; those in memory are prepared once and for all.

        Raises:
            UserError: it is empty.
        """
        split = self.splits[name]
        augment = augment and self.preparation.augment != "none"
        if isinstance(split.source, Arrays) and len(split) and not augment:
            return Ready(self.preparation(split.source.images[split.index]), self.keys)
        return super().split(name, augment=augment)

    def read(self, source: Images, number: int, augment: bool) -> dict[str, Tensor]:
        image = decode(_read(source, number), self.preparation.channels)
        return {key: self.preparation(image, augment) for key in self.keys}

    def to_image(self, x: Tensor) -> Tensor:
        return self.preparation.to_image(x)


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


def _shape(
    train: Split[Images], size: int | Sequence[int] | None, channels: int | None
) -> tuple[int | Sequence[int], int]:
    """Size and channels, where the user leaves them open those of 64 images, evenly spaced.

    Raises:
        UserError: channels other than 1 or 3, or none of those looked at can be read.
    """
    if channels not in (None, 1, 3):
        raise UserError(f"channels must be 1 or 3, got {channels}")
    if size is None or channels is None:
        found = list(_headers(train.take(64)))
        sizes = {shape for shape, _ in found}
        if size is None:
            size = sizes.pop() if len(sizes) == 1 and max(max(shape) for shape in sizes) <= 224 else 224
        if channels is None:
            channels = 1 if all(grey for _, grey in found) else 3
    return size, channels


def _headers(split: Split[Images]) -> Iterator[tuple[tuple[int, int], bool]]:
    reason, count = "", 0
    for index in split.index.tolist():
        try:
            yield header(_read(split.source, index))
            count += 1
        except BadSample as error:
            reason = f"{split.source.name(index)}: {error}"
    if not count:
        raise UserError(f"none of the images can be read; {reason}")


def _read(source: Images, index: int) -> Raw:
    try:
        return source.read(index)
    # other people's data sets decode as they read, and fail as variously as files do
    except Exception as error:
        raise BadSample(reason(error)) from error
