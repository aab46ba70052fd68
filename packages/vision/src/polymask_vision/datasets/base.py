"""The data set of images: what a reader found, brought to one size, normalised and augmented."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from polymask import UserError
from polymask.data import (
    BadSample,
    FileDataset,
    Samples,
    Source,
    Split,
    SplitName,
    Splits,
    read_some,
    reading,
)
from polymask.types import Count
from polymask_vision.boxes import Boxed, moved
from polymask_vision.datasets.decode import Header, Raw, decode, header, outside, reason
from polymask_vision.datasets.maps import Layered, Mapped, layer_facts
from polymask_vision.datasets.memory import Arrays, Ready
from polymask_vision.datasets.prepare import Augment, Preparation, as_large, normalisation
from polymask_vision.datasets.texts import Captioned, Captions
from polymask_vision.views import OTHER, Paired

LOOK = 64
"""How many images are looked at, evenly spaced."""


class Images(Source, Protocol):
    """Images by number, each read when it is asked for."""

    def read(self, index: int) -> Raw:
        """One image, encoded or decoded."""


class ImageDataset(FileDataset[Images]):
    """What a reader of images found, as samples ``{"image": float32 [C, H, W]}``, normalised.

    Of data with a class or a value at each pixel, samples hold these too, see :class:`Mapped`, under the same
    crop as the image; ``map_classes`` are names of the classes. Of pairs, see :class:`Paired`, samples hold
    the second picture as ``"other"``, augmented for itself, whatever ``views`` is. Of data with boxes, see
    :class:`Boxed`, they hold these, moved like the image. With ``text_vocab``, samples of data with captions
    hold their words too, see :class:`Captions`.

    Args:
        found: what the reader found.
        size: height and width to scale and crop to. By default that of the images, if it is the same
            for all and at most 224; else 224.
        channels: 1 (grey), 3, 4 (opacity or a fourth band is kept) or as many as the files have; by default
            1 if all images are grey, as many as they have if these are more than 4, else 3.
        range: values that become 0 and 1, the others are clipped: ``[0,4095]``. By default those of the
            type of each image: 0 to 255, 0 to 65,535 or, of floats, 0 to 1.
        mean: per channel, of values in [0, 1]; by default the data set's own where known, else ImageNet's,
            or 0.5 where channels are neither 1 nor 3.
        std: standard deviation per channel; by default as the mean.
        augment: random augmentation in training: ``"flip"``, ``"crop"``, ``"crop-flip"``, ``"shift-flip"``,
            ``"three-augment"``, ``"rand-augment"``, ``"crop-jitter"`` or ``"none"``.
        crop_scale: areas of ``crop``, ``crop-flip`` and ``crop-jitter``, as shares of the image.
        views: 2 to have a second random augmentation of each image, under ``"other"``.
        other_augment: augmentation of the second; by default as the first.
        text_vocab: have the words of captions as ids of a vocabulary: ``bpe`` or ``wordpiece``, trained on
            those of the training split; or the path of a ``tokenizer.json``, or a name on the Hugging Face
            hub. It needs polymask-language. Images without a caption are left out.
        text_vocab_size: ids of a trained vocabulary, at most.
        text_length: maximum number of tokens of a caption, with those at both ends; longer ones are cut.
        limit: maximum number of images per split.
    """

    key, what, _clipped = "image", "images", False

    def __init__(
        self,
        found: Splits[Images],
        /,
        *,
        size: Count | Sequence[Count] | None = None,
        channels: Count | None = None,
        range: Sequence[float] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        augment: Augment = "none",
        crop_scale: Sequence[float] = (0.2, 1.0),
        views: Count = 1,
        other_augment: Augment | None = None,
        text_vocab: str | None = None,
        text_vocab_size: Count = 4096,
        text_length: Count = 32,
        limit: Count | None = None,
    ) -> None:
        words = None
        if text_vocab is not None:
            words = Captions(found, text_vocab, vocab_size=text_vocab_size, length=text_length)
            found = words.found
        super().__init__(found, limit=limit)
        self.words, self.texts = words, words and words.texts
        if views not in (1, 2):
            raise UserError(f"views={views}: a sample has 1 view of an image, or 2")
        paired = isinstance(found.train.source, Paired)
        if paired:
            views = 2
        if other_augment is not None and views == 1:
            raise UserError("other_augment is of the second view of an image: give --data.views 2 with it")
        if channels is not None and channels < 1:
            raise UserError(f"channels must be 1 or more, got {channels}")
        self.range = None if range is None else _range(range)
        in_memory = isinstance(found.train.source, Arrays)  # all of one size and type
        headers = _headers(found.train.take(1 if in_memory else LOOK))
        sizes = {one.size for one in headers.values()}
        if size is None:
            size = sizes.pop() if len(sizes) == 1 and max(max(shape) for shape in sizes) <= 224 else 224
        if channels is None:
            most = max(one.channels for one in headers.values())
            channels = most if most > 4 or most == 1 else 3
        if self.range is None:
            _require_spans(headers)
        mean, std = normalisation(channels, mean, std, found.suggested)
        kept: dict[str, Any] = {"size": size, "mean": mean, "std": std, "crop_scale": crop_scale}
        ways = (augment, other_augment or augment)[:views]
        self.preparations = [Preparation(augment=way, **kept) for way in ways]
        self.preparation = self.preparations[0]
        if isinstance(found.train.source, Boxed) and augment == "rand-augment":
            raise UserError(
                "augment='rand-augment' would move objects away from their boxes: choose crop-flip"
            )
        if ways == ("none", "none") and not paired:
            warnings.warn(
                "views=2 with augment='none': both views of an image are the same; choose an augment "
                "(--data.augment crop-flip)",
                stacklevel=2,
            )
        self.keys = (self.key, OTHER)[:views]
        self.provides: dict[str, Any] = {
            "size": self.preparation.size,
            "channels": self.preparation.channels,
            "mean": self.preparation.mean,
            "std": self.preparation.std,
            "samples": len(self.splits["train"]),
            **layer_facts(found.train.source, channels, (self.preparation.mean, self.preparation.std)),
        }
        spans = {self.range or one.span for one in headers.values()}
        if len(spans) == 1:
            self.provides["range"] = spans.pop()
        if words is not None:
            self.provides["text"] = dict(words.texts.facts)
        known = ("size", "channels", "mean", "std", "range")
        self.provides["preparation"] = {key: self.provides[key] for key in known if key in self.provides}
        # asked once: it takes as long as decoding a small image
        self._more = any(isinstance(one.source, Mapped | Boxed) for one in (found.train, found.test))
        self.map_classes = source.map_classes if isinstance(source := found.train.source, Mapped) else None
        if self.map_classes:
            self.provides["map_classes"] = len(self.map_classes)

    def captions(self, name: SplitName) -> list[str] | None:
        """A few words about each sample of a split; None where there are none."""
        split = self.splits[name]
        if not isinstance(split.source, Captioned):
            return None
        return [split.source.caption(number) for number in split.index.tolist()]

    def split(self, name: SplitName, *, augment: bool = False) -> Samples:
        """Samples of a split; those in memory are prepared once and for all.

        Raises:
            UserError: it is empty.
        """
        split = self.splits[name]
        augment = augment and any(one.augment != "none" for one in self.preparations)
        plain = self.words is None and self.range is None and not augment
        if isinstance(split.source, Arrays) and plain and len(split):
            return Ready(self.preparation(split.source.images[split.index]), self.keys)
        return super().split(name, augment=augment)

    def read(self, source: Images, number: int, augment: bool) -> dict[str, Tensor]:
        image = self._decode(source, number)
        if not self._clipped and (share := outside(image)) > 0.5:
            self._clipped = True
            warnings.warn(
                f"{source.name(number)}: {share:.0%} of its values lie outside the range of "
                f"{_shown(self.provides.get('range', ()))} and are clipped; set --data.range",
                stacklevel=2,
            )
        maps: dict[str, Tensor] = {}
        if self._more and isinstance(source, Mapped):
            with reading(reason):
                maps = source.maps(number)
            if isinstance(source, Layered):
                maps = {name: as_large(x, image) for name, x in maps.items()}
        if wrong := [x.shape[-2:] for x in maps.values() if x.shape[-2:] != image.shape[1:]]:
            raise BadSample(f"its map is {_by(wrong[0])} pixels, and the image is {_by(image.shape[1:])}")
        prepared = self.preparation.prepare(image, maps, augment)
        first, maps = prepared.image, prepared.maps
        if self._more and isinstance(source, Boxed):
            with reading(reason):
                maps |= moved(source.objects(number), prepared, self.preparation.size)
        if self.words is not None:
            maps |= self.words.entries(source, number)
        if len(self.keys) == 1:
            return {self.key: first, **maps}
        second = self._decode(source, number, source.other) if isinstance(source, Paired) else image
        return {self.key: first, OTHER: self.preparations[1](second, augment), **maps}

    def describe(self) -> dict[str, str]:
        """Size, range, share clipped and scale of what a system gets; reads a few images."""
        lines = dict[str, str]()
        found, bad = read_some(self.splits["train"], LOOK, self._looked)
        (height, width), channels = self.preparation.size, self.preparation.channels
        lines["size"] = f"{height} x {width} pixels, {channels} channel{'s' * (channels > 1)}"
        if "range" in self.provides:
            lines["values"] = f"{_shown(self.provides['range'])}, as 0 to 1"
        else:
            lines["values"] = "each image by the range of its type, as 0 to 1"
        if found:
            shares, values = zip(*found, strict=True)
            lines["clipped"] = f"{sum(shares) / len(shares):.1%} of the values, in a sample of {len(shares)}"
            x = torch.cat(values)
            lines["normalised"] = f"mean {x.mean():.2f}, standard deviation {x.std():.2f}"
        return lines | bad | ({} if self.words is None else self.words.describe())

    def _looked(self, source: Images, number: int) -> tuple[float, Tensor]:
        image = self._decode(source, number)
        return outside(image), self.preparation(image).flatten()

    def _decode(self, source: Images, number: int, read: Callable[[int], Raw] | None = None) -> Tensor:
        with reading(reason):
            raw = (read or source.read)(number)
        return decode(raw, self.preparation.channels, self.range)

    def to_image(self, x: Tensor) -> Tensor:
        return self.preparation.to_image(x)


def _headers(split: Split[Images]) -> dict[str, Header]:
    """What is known of images, by name, without those that cannot be read.

    Raises:
        UserError: none of them can.
    """
    found, last = dict[str, Header](), ""
    for index in split.index.tolist():
        name = split.source.name(index)
        try:
            with reading(reason):
                raw = split.source.read(index)
            found[name] = header(raw)
        except BadSample as error:
            last = f"{name}: {error}"
    if not found:
        raise UserError(f"none of the images can be read; {last}")
    return found


def _require_spans(headers: Mapping[str, Header]) -> None:
    """Refuse values that no range is known of, and say where a range is hardly used.

    Raises:
        UserError: an image has values outside the range of its type.
    """
    wide = {name: one.values for name, one in headers.items() if one.values is not None}
    if not wide:
        return
    low, high = min(a for a, _ in wide.values()), max(b for _, b in wide.values())
    for name, values in wide.items():
        if headers[name].span is None:
            raise UserError(
                f"{name} holds values of {_shown(values)}, which are outside the range of an image of its "
                f"type; those of {len(wide)} images looked at are {_shown((low, high))}: say which become 0 "
                f"and 1, --data.range '[{low:g},{high if high > low else low + 1:g}]' for example"
            )
    spans = {headers[name].span for name in wide}
    if spans == {(0, 65535)} and high < 65535 / 8:
        bits = max(int(high).bit_length(), 1)
        warnings.warn(
            f"the values of {len(wide)} images of 16 bits are at most {high:,.0f} and become less than "
            f"{high / 65535:.2f}; if they have {bits} bits, give --data.range '[0,{2**bits - 1}]'",
            stacklevel=3,
        )


def _range(values: Sequence[float]) -> tuple[float, float]:
    if len(values) != 2 or not values[0] < values[1]:
        raise UserError(
            f"range takes the values that become 0 and 1, [LOW,HIGH] with LOW < HIGH, got {values}"
        )
    return float(values[0]), float(values[1])


def _by(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


def _shown(span: Sequence[float]) -> str:
    return " to ".join(f"{value:,g}" for value in span)
