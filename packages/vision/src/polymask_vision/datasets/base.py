"""What every data set of images is made of: a source of pictures, its two splits, a preparation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from polymask import UserError
from polymask.data import Samples, Split
from polymask.portions import Portion, ReadDataset, Skipped, Unreadable
from polymask_vision.datasets.decode import Raw, decode, header, reason
from polymask_vision.datasets.portions import Pictures
from polymask_vision.datasets.prepare import IMAGENET, IMAGENET_GREY, Augment, Preparation


class ImageDataset(ReadDataset[Pictures]):
    """A data set of images; subclasses are constructors that find the pictures.

    Args:
        train: what to train on.
        test: what to hold out.
        preparation: size, normalisation and augmentation.
        classes: names of the classes, or None.
        skipped: what was left out when the pictures were found, with the reason.
        limit: at most so many pictures of each split.
    """

    key, what = "image", "images"

    def __init__(
        self,
        train: Portion[Pictures],
        test: Portion[Pictures],
        preparation: Preparation,
        *,
        classes: Sequence[str] | None = None,
        skipped: Skipped | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(train, test, classes=classes, skipped=skipped, limit=limit)
        self.preparation = preparation
        self.provides: dict[str, Any] = {
            "size": preparation.size,
            "channels": preparation.channels,
            "mean": preparation.mean,
            "std": preparation.std,
            "samples": len(self.portions["train"]),
        }

    def split(self, name: Split, *, augment: bool = False) -> Samples:
        """Samples of a split; those in memory are prepared once and for all.

        Raises:
            UserError: it is empty.
        """
        portion = self.portions[name]
        augment = augment and self.preparation.augment != "none"
        if isinstance(portion.source, Arrays) and len(portion) and not augment:
            return Ready(self.preparation(portion.source.images[portion.index]))
        return super().split(name, augment=augment)

    def read(self, source: Pictures, number: int, augment: bool) -> dict[str, Tensor]:
        image = decode(_read(source, number), self.preparation.channels)
        return {self.key: self.preparation(image, augment)}

    def picture(self, x: Tensor) -> Tensor:
        return self.preparation.picture(x)


class Arrays:
    """Pictures in memory.

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
    """Samples prepared once and for all."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": self.images[index]}


def prepare(
    train: Portion[Pictures],
    *,
    size: int | Sequence[int] | None,
    channels: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    augment: Augment,
    crop_scale: Sequence[float],
) -> Preparation:
    """A preparation for pictures of unknown size and colour, where the user leaves it open.

    Looks at 64 of them, evenly spaced: one channel if all of these are grey, else three; their own
    size if it is the same for all and at most 224 pixels, else 224.

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
    usual = IMAGENET if channels == 3 else IMAGENET_GREY
    mean, std = mean or usual[0], std or usual[1]
    if len(mean) != channels:
        raise UserError(f"mean and std need {channels} numbers, one per channel, got {tuple(mean)}")
    return Preparation(size=size, mean=mean, std=std, augment=augment, crop_scale=crop_scale)


def _headers(portion: Portion[Pictures]) -> Iterator[tuple[tuple[int, int], bool]]:
    reason, count = "", 0
    for index in portion.index.tolist():
        try:
            yield header(_read(portion.source, index))
            count += 1
        except Unreadable as error:
            reason = f"{portion.source.name(index)}: {error}"
    if not count:
        raise UserError(f"none of the images can be read; {reason}")


def _read(source: Pictures, index: int) -> Raw:
    try:
        return source.read(index)
    # other people's data sets decode as they read, and fail as variously as files do
    except Exception as error:
        raise Unreadable(reason(error)) from error
