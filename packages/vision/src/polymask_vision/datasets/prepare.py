"""From a decoded image to what a system is given: size, augmentation, normalisation, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from polymask import UserError
from polymask_vision.datasets.place import Place, Prepared
from polymask_vision.datasets.rand_augment import RandAugment

Augment = Literal[
    "none", "flip", "crop", "crop-flip", "shift-flip", "three-augment", "rand-augment", "crop-jitter"
]
"""Random augmentation of training images, by name."""

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation that colour images are normalised with by convention."""

IMAGENET_GREY = ((0.459,), (0.226,))
"""The same for grey ones: the luma of the mean, the mean of the deviations."""


PAD = 4
"""Pixels that are reflected around an image before it is cropped anywhere."""


COLOURED = ("three-augment", "crop-jitter")
"""Augmentations that change colours, and of which it is known where each pixel was."""


class Preparation:
    """Brings images to one size and normalises them.

    Without augmentation an image is scaled to cover the size and cropped around its centre.

    Args:
        size: height and width, or one number for both.
        mean: per channel, of values in [0, 1]; its length is the number of channels.
        std: standard deviation per channel.
        augment: ``"none"``; ``"flip"``, left to right with probability 1/2; ``"crop"``, a part of
            random area and shape scaled to size; ``"crop-flip"``, that, then the flip (He et al. 2021);
            ``"shift-flip"``, scaled to cover the size, 4 pixels reflected around it, cropped anywhere, then
            the flip;
            ``"three-augment"``, the same, then jittered colours with probability 0.8 and one of grey,
            solarised or blurred by up to 2 pixels (Touvron et al. 2022, arXiv 2204.07118, with the jitter of
            LUT, arXiv 2310.13593); ``"rand-augment"``, crop-flip, then RandAugment
            (``rand-m9-mstd0.5-inc1``) in 8 bits and noise in a random box with probability 0.25, for
            fine-tuning (He et al. 2021);
            ``"crop-jitter"``, cropped anywhere to a part of random area, never flipped, with brightness,
            contrast and saturation changed by up to 0.4, for pictures whose geometry counts (CroCo, arXiv
            2210.10716).
        crop_scale: smallest and largest area of the part, as shares of the image (He et al. 2021:
            0.2 to 1; Xie et al. 2021, SimMIM: 0.67 to 1).
    """

    def __init__(
        self,
        *,
        size: int | Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        augment: Augment = "none",
        crop_scale: Sequence[float] = (0.2, 1.0),
    ) -> None:
        self.size = _pair(size)
        if augment not in get_args(Augment):
            raise UserError(f"augment={augment!r}: choose one of {', '.join(get_args(Augment))}")
        if len(mean) != len(std) or min(std) <= 0:
            raise UserError(
                f"mean and std need one number per channel, and std positive ones, got {mean} and {std}"
            )
        low, high = _two(crop_scale, "crop_scale")
        if not 0 < low <= high <= 1:
            raise UserError(
                f"crop_scale must be two shares of the image, 0 < low <= high <= 1, got {low}, {high}"
            )
        self.channels = len(mean)
        if augment in ("shift-flip", "three-augment") and min(self.size) <= PAD:
            raise UserError(f"augment={augment!r} needs images of more than {PAD} pixels, got {self.size}")
        if augment in ("three-augment", "rand-augment", "crop-jitter") and self.channels not in (1, 3):
            raise UserError(f"augment={augment!r} needs 1 or 3 channels, got {self.channels}")
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        self.augment = augment
        self._shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)])[:, None, None]
        self._scale = torch.tensor([1 / s for s in std])[:, None, None]
        # shapes are relative to the one wanted, so that wide images are not squeezed
        shape = self.size[1] / self.size[0]
        self._crop = v2.RandomResizedCrop(
            self.size,
            scale=(low, high),
            ratio=(shape * 3 / 4, shape * 4 / 3),
            interpolation=InterpolationMode.BICUBIC,
            antialias=True,
        )
        self._anywhere = v2.RandomCrop(self.size, padding=PAD, padding_mode="reflect")
        self.crop_scale = low, high
        self._light = v2.ColorJitter(0.4, 0.4, 0.4)
        self._jitter = v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8)
        self._random = RandAugment(self.size, self.mean) if augment == "rand-augment" else None
        kernel = min(13, 2 * min(self.size) - 1)  # three deviations to each side
        self._one_of = v2.RandomChoice(
            [v2.RandomGrayscale(p=1.0), _solarise, v2.GaussianBlur(kernel, (0.1, 2.0))]
        )

    def __call__(self, image: Tensor, augment: bool = False) -> Tensor:
        """``[..., C, h, w]``, uint8 or float clipped to [0, 1], to normalised float32 ``[..., C, H, W]``.

        With ``augment``, chance comes from torch's global generator.
        """
        return self.prepare(image, {}, augment).image

    def with_maps(
        self, image: Tensor, maps: Mapping[str, Tensor], augment: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The same, with maps ``[h, w]`` or ``[C, h, w]`` of its pixels, scaled, cropped, flipped alike."""
        prepared = self.prepare(image, maps, augment)
        return prepared.image, prepared.maps

    def prepare(self, image: Tensor, maps: Mapping[str, Tensor], augment: bool = False) -> Prepared:
        """The same, with where the pixels went."""
        if image.is_floating_point():
            image = image.clamp(0, 1)
        # a crop of whole pixels takes maps of any type as they are in float64
        planes = [image, *(plane.double().view(-1, *plane.shape[-2:]) for plane in maps.values())]
        chosen = self.augment if augment else "none"
        if chosen == "rand-augment" and maps:
            raise UserError(
                f"augment='rand-augment' would move pixels away from their {', '.join(maps)}: "
                "choose crop-flip"
            )
        if chosen in ("crop", "crop-flip", "rand-augment"):
            part = self._crop.make_params([image])
            image = self._crop.transform(image, part)
            top, left, height, width = (part[name] for name in ("top", "left", "height", "width"))
            rest = [nearest(x[..., top : top + height, left : left + width], self.size) for x in planes[1:]]
            scale = self.size[0] / height, self.size[1] / width
            place = Place(scale, (top * scale[0], left * scale[1]))
        elif chosen in ("shift-flip", "three-augment"):
            planes, scale = self._resize(planes)
            part = self._anywhere.make_params(planes[:1])
            image, *rest = (self._anywhere.transform(x, part) for x in planes)
            place = Place(scale, (part["top"] - PAD, part["left"] - PAD))
        elif chosen == "crop-jitter":
            low, high = self.crop_scale
            side = (low + (high - low) * torch.rand(1).item()) ** -0.5
            planes, scale = self._resize(planes, (round(side * self.size[0]), round(side * self.size[1])))
            top, left = (
                int(torch.randint(there - wanted + 1, ()))
                for there, wanted in zip(planes[0].shape[-2:], self.size, strict=True)
            )
            image, *rest = (F.crop(x, top, left, *self.size) for x in planes)
            place = Place(scale, (top, left))
        else:
            planes, scale = self._resize(planes)
            image, *rest = (F.center_crop(x, list(self.size)) for x in planes)
            # torchvision rounds half a pixel to an even number
            top, left = (
                round((there - wanted) / 2)
                for there, wanted in zip(planes[0].shape[-2:], self.size, strict=True)
            )
            place = Place(scale, (top, left))
        # as v2.RandomHorizontalFlip draws
        if chosen not in ("none", "crop", "crop-jitter") and torch.rand(1) < 0.5:
            image, *rest = (x.flip(-1) for x in (image, *rest))
            place = dataclasses.replace(place, mirror=self.size[1])
        clean = None
        if chosen in COLOURED:
            clean = self._normalised(image)
            image = self._light(image) if chosen == "crop-jitter" else self._one_of(self._jitter(image))
        erase = None
        if chosen == "rand-augment" and self._random is not None:
            image, erase = self._random.change(image), self._random.erase
        kept = {
            name: x.view(*maps[name].shape[:-2], *x.shape[-2:]).to(maps[name].dtype)
            for name, x in zip(maps, rest, strict=True)
        }
        normalised = self._normalised(image)
        return Prepared(normalised if erase is None else erase(normalised), kept, place, clean)

    def _normalised(self, image: Tensor) -> Tensor:
        if image.dtype == torch.uint8:
            return torch.addcmul(self._shift, image.float(), self._scale / 255)
        # scaling by cubic curves leaves the range, and rounding to uint8 brings back only uint8
        return torch.addcmul(self._shift, image.float().clamp(0, 1), self._scale)

    def to_image(self, x: Tensor) -> Tensor:
        """Undo the normalisation: ``[..., C, H, W]`` in [0, 1]."""
        mean, std = (x.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (x * std + mean).clamp(0, 1)

    def _resize(
        self, planes: Sequence[Tensor], cover: tuple[int, int] | None = None
    ) -> tuple[list[Tensor], tuple[float, float]]:
        """An image and maps of its pixels, scaled to cover a size, by default that wanted; how much."""
        (h, w), (rows, columns) = planes[0].shape[-2:], cover or self.size
        scale = max(rows / h, columns / w)
        size = (max(round(h * scale), rows), max(round(w * scale), columns))
        if size == (h, w):
            return list(planes), (1.0, 1.0)
        image = F.resize(planes[0], list(size), InterpolationMode.BICUBIC, antialias=True)
        return [image, *(nearest(x, size) for x in planes[1:])], (size[0] / h, size[1] / w)


def normalisation(
    channels: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    suggested: Mapping[str, Any],
) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation per channel, of values in [0, 1].

    Args:
        channels: of the images.
        mean: that was given, or None.
        std: the same.
        suggested: those of the data set where it knows them; else they are ImageNet's, or 0.5 where channels
            are neither 1 nor 3.

    Raises:
        UserError: there is another number of them than of channels.
    """
    usual = {1: IMAGENET_GREY, 3: IMAGENET}.get(channels, ((0.5,) * channels,) * 2)
    if len(suggested.get("mean", ())) == channels:
        usual = suggested["mean"], suggested["std"]
    mean, std = mean or usual[0], std or usual[1]
    if len(mean) != channels:
        raise UserError(f"mean and std need {channels} numbers, one per channel, got {tuple(mean)}")
    return mean, std


def nearest(x: Tensor, size: tuple[int, int]) -> Tensor:
    """``[..., h, w]`` scaled to the nearest: what lies under the middle of each new pixel."""
    rows, columns = (
        ((torch.arange(new) + 0.5) * (old / new)).long().clamp(max=old - 1)
        for new, old in zip(size, x.shape[-2:], strict=True)
    )
    return x[..., rows[:, None], columns]


def as_large(x: Tensor, image: Tensor) -> Tensor:
    """A layer ``[..., h, w]`` scaled to the nearest to an image of the same shape; else as it is."""
    height, width = image.shape[-2:]
    return nearest(x, (height, width)) if x.shape[-2] * width == x.shape[-1] * height else x


def _solarise(image: Tensor) -> Tensor:
    """The upper half of the range turned over."""
    solarised: Tensor = F.solarize(image, 128 if image.dtype == torch.uint8 else 0.5)
    return solarised


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else _two(size, "size")
    if min(height, width) < 1:
        raise UserError(f"size must be one or two numbers of pixels, got {size}")
    return int(height), int(width)


def _two(values: Sequence[float], name: str) -> tuple[float, float]:
    if len(values) != 2:
        raise UserError(f"{name} takes two numbers, got {values!r}")
    return values[0], values[1]
