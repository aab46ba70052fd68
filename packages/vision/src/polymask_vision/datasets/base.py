"""What every data set of images is made of: a source of pictures, its two splits, a preparation."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from polymask import UserError
from polymask.data import Samples, Split
from polymask_vision.datasets.decode import Raw, Unreadable, decode, header, reason
from polymask_vision.datasets.portions import Portion, Source
from polymask_vision.datasets.prepare import IMAGENET, IMAGENET_GREY, Augment, Preparation

Skipped = list[tuple[str, str]]
_IN_A_ROW = 100


class ImageDataset:
    """A data set of images; subclasses are constructors that find the pictures.

    Args:
        train: what to train on.
        test: what to hold out.
        preparation: size, normalisation and augmentation.
        classes: names of the classes, or None.
        skipped: what was left out when the pictures were found, with the reason.
        limit: at most so many pictures of each split.
    """

    key = "image"

    def __init__(
        self,
        train: Portion,
        test: Portion,
        preparation: Preparation,
        *,
        classes: Sequence[str] | None = None,
        skipped: Skipped | None = None,
        limit: int | None = None,
    ) -> None:
        self.portions: dict[Split, Portion] = {"train": train.take(limit), "test": test.take(limit)}
        self.preparation = preparation
        self.classes = classes
        self._skipped = skipped or []
        self.provides: dict[str, Any] = {
            "size": preparation.size,
            "channels": preparation.channels,
            "mean": preparation.mean,
            "std": preparation.std,
            "samples": len(self.portions["train"]),
        }

    def split(self, name: Split, *, augment: bool = False) -> Samples:
        """Samples of a split.

        Raises:
            UserError: it is empty.
        """
        portion = self.portions[name]
        if not len(portion):
            raise UserError(f"there are no {name} images: give more of them, or another share (--data.test)")
        augment = augment and self.preparation.augment != "none"
        if isinstance(portion.source, Arrays) and not augment:
            return Ready(self.preparation(portion.source.images[portion.index]))
        return Pictures(portion, self.preparation, augment)

    def labels(self, name: Split) -> Tensor | None:
        return self.portions[name].labels

    def picture(self, x: Tensor) -> Tensor:
        return self.preparation.picture(x)

    @property
    def skipped(self) -> Skipped:
        """Files left out, ``(path, reason)``; grows when reading finds more that are broken."""
        found = [
            (portion.source.name(index), _why(portion.source, index))
            for portion in self.portions.values()
            for index in portion.index[portion.unreadable].tolist()
        ]
        return self._skipped + found


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


class Pictures:
    """Samples read, decoded and prepared one by one.

    A picture that cannot be read after all is replaced by the next one of its class, always the same,
    with a warning the first time.
    """

    def __init__(self, portion: Portion, preparation: Preparation, augment: bool) -> None:
        self.portion, self.preparation, self.augment = portion, preparation, augment

    def __len__(self) -> int:
        return len(self.portion)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        source, failed, last = self.portion.source, -1, None
        for place in self._candidates(index % len(self)):
            number = int(self.portion.index[place])
            try:
                image = decode(_read(source, number), self.preparation.channels)
            except Unreadable as error:
                failed, last = (place, error) if last is None else (failed, last)
                continue
            if last is not None and not self.portion.unreadable[failed]:
                self.portion.unreadable[failed] = True
                name = source.name(int(self.portion.index[failed]))
                warnings.warn(f"{name}: {last}; {source.name(number)} stands in for it", stacklevel=2)
            return {"image": self.preparation(image, self.augment)}
        raise UserError(f"{_IN_A_ROW} pictures or more in a row cannot be read: {last}")

    def _candidates(self, index: int) -> Iterator[int]:
        yield index
        after = (index + torch.arange(1, len(self))) % len(self)
        if self.portion.labels is not None:
            same = self.portion.labels[after] == self.portion.labels[index]
            after = torch.cat([after[same], after[~same]])
        yield from after[:_IN_A_ROW].tolist()


def prepare(
    train: Portion,
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


def _headers(portion: Portion) -> Iterator[tuple[tuple[int, int], bool]]:
    reason, count = "", 0
    for index in portion.index.tolist():
        try:
            yield header(_read(portion.source, index))
            count += 1
        except Unreadable as error:
            reason = f"{portion.source.name(index)}: {error}"
    if not count:
        raise UserError(f"none of the images can be read; {reason}")


def _read(source: Source, index: int) -> Raw:
    try:
        return source.read(index)
    # other people's data sets decode as they read, and fail as variously as files do
    except Exception as error:
        raise Unreadable(reason(error)) from error


def _why(source: Source, index: int) -> str:
    try:
        decode(_read(source, index), 3)
    except Unreadable as error:
        return str(error)
    return "could not be read during training"
