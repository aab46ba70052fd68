"""The data set of video: frames at some times of each clip, of one size, normalised and augmented."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import UserError
from polymask.data import BadSample, FileDataset, Samples, Source, SplitName, Splits, reading, span
from polymask.data.splits import Split
from polymask.report.player import Player
from polymask.types import Count, Positive
from polymask_vision.datasets.decode import Raw, decode, header, reason
from polymask_vision.datasets.prepare import Augment, Preparation, normalisation
from polymask_vision.datasets.texts import Captioned, Captions, captions_of

LOOK = 16
"""How many clips are looked at, evenly spaced."""

KEPT = 2**30
"""Bytes of clips that are kept in memory at most."""


class Clips(Source, Protocol):
    """Videos by number, each read when it is asked for."""

    def seconds(self, index: int) -> float:
        """The length of one."""

    def frames(self, index: int, times: Sequence[float]) -> Sequence[Raw]:
        """What it shows at some times, in seconds and in order."""


class VideoDataset(FileDataset[Clips]):
    """What a reader of video found, as samples ``{"video": float32 [T, C, H, W]}``, normalised.

    All frames of a clip are cropped, flipped and coloured alike. With ``text_vocab``, samples of data with
    captions hold the words of one of them too, see :class:`Captions`. Clips that are the same each time they
    are read, not augmented and with ``rate`` unset, are kept in memory, up to a gigabyte.

    Args:
        found: what the reader found.
        frames: per clip; by default those of the data set where it has a number of its own, else 16.
        rate: frames per second to take (V-JEPA: about 7.5), from a random place in training and from the
            middle elsewhere; where the video ends, its last frame is repeated. By default ``frames`` are
            spread over all of the video.
        size: height and width to scale and crop to. By default that of the videos, if it is the same for all
            and at most 224; else 224.
        channels: 1 (grey) or 3; by default 1 if all are grey.
        mean: per channel, of values in [0, 1]; by default the data set's own where known, else ImageNet's.
        std: standard deviation per channel; by default as the mean.
        augment: random augmentation in training: ``"flip"`` (which turns directions around), ``"crop"``,
            ``"crop-flip"``, ``"shift-flip"``, ``"three-augment"``, ``"crop-jitter"`` or ``"none"``.
        crop_scale: areas of ``crop``, ``crop-flip`` and ``crop-jitter``, as shares of the frame.
        text_vocab: have the words of captions as ids of a vocabulary, as of images; it needs
            polymask-language. Clips without a caption are left out.
        text_vocab_size: ids of a trained vocabulary, at most.
        text_length: maximum number of tokens of a caption, with those at both ends; longer ones are cut.
        limit: maximum number of clips per split.
    """

    key, what = "video", "clips"

    def __init__(
        self,
        found: Splits[Clips],
        /,
        *,
        frames: Count | None = None,
        rate: Positive | None = None,
        size: Count | Sequence[Count] | None = None,
        channels: Count | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        augment: Augment = "none",
        crop_scale: Sequence[float] = (0.2, 1.0),
        text_vocab: str | None = None,
        text_vocab_size: Count = 4096,
        text_length: Count = 32,
        limit: Count | None = None,
    ) -> None:
        self.words = None
        if text_vocab is not None:
            self.words = Captions(found, text_vocab, vocab_size=text_vocab_size, length=text_length)
            found = self.words.found
        super().__init__(found, limit=limit)
        self.texts = None if self.words is None else self.words.texts
        if channels not in (None, 1, 3):
            raise UserError(f"channels must be 1 or 3, got {channels}")
        if augment == "rand-augment":
            raise UserError(
                "augment='rand-augment' changes frames one by one: choose crop, crop-flip, shift-flip or "
                "three-augment"
            )
        sizes, grey = _look(found.train.take(LOOK))
        if size is None:
            size = sizes.pop() if len(sizes) == 1 and max(max(shape) for shape in sizes) <= 224 else 224
        channels = channels or (1 if grey else 3)
        mean, std = normalisation(channels, mean, std, found.suggested)
        self.frames, self.rate = frames or found.suggested.get("frames", 16), rate
        self.preparation = Preparation(size=size, mean=mean, std=std, augment=augment, crop_scale=crop_scale)
        facts = {
            "size": self.preparation.size,
            "channels": channels,
            "mean": self.preparation.mean,
            "std": self.preparation.std,
            "frames": self.frames,
        }
        self.provides: dict[str, Any] = {
            **facts,
            "samples": len(self.splits["train"]),
            "preparation": facts | ({} if rate is None else {"rate": rate}),
        }
        if self.texts is not None:
            self.provides["text"] = dict(self.texts.facts)
        bytes_each = 4 * self.frames * channels * self.preparation.size[0] * self.preparation.size[1]
        self._most, self._kept = KEPT // bytes_each, dict[str, Tensor]()

    def split(self, name: SplitName, *, augment: bool = False) -> Samples:
        """Samples of a split.

        Raises:
            UserError: it is empty.
        """
        changes = self._changes or self.words is not None  # one of its captions is drawn
        return super().split(name, augment=augment and changes)

    def captions(self, name: SplitName) -> list[str] | None:
        """The first caption of each sample of a split; None where there are none."""
        split = self.splits[name]
        return captions_of(split) if isinstance(split.source, Captioned) else None

    @property
    def _changes(self) -> bool:
        """Whether clips differ when they are read again in training."""
        return self.preparation.augment != "none" or self.rate is not None

    def read(self, source: Clips, number: int, augment: bool) -> dict[str, Tensor]:
        words = {} if self.words is None else self.words.entries(source, number, draw=augment)
        return {self.key: self._clip(source, number, augment and self._changes), **words}

    def _clip(self, source: Clips, number: int, augment: bool) -> Tensor:
        key = source.name(number)
        if not augment and key in self._kept:
            return self._kept[key]
        with reading(reason):
            raw = source.frames(number, self._times(source.seconds(number), augment))
        decoded = [decode(frame, self.preparation.channels) for frame in raw]
        if len({x.shape for x in decoded}) > 1:
            raise BadSample("its frames differ in size")
        clip = self.preparation(torch.stack(decoded), augment)
        if not augment and len(self._kept) < self._most:
            self._kept[key] = clip
        return clip

    def _times(self, seconds: float, augment: bool) -> list[float]:
        """When frames are taken: in the middle of intervals of equal length."""
        length = seconds if self.rate is None else self.frames / self.rate
        room = max(seconds - length, 0.0)
        start = room * (torch.rand(1).item() if augment else 0.5)
        step = length / self.frames
        return [min(start + (i + 0.5) * step, seconds) for i in range(self.frames)]

    def descriptor(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The pixels of a clip at 4 times, averaged to 8 x 8 of each channel, ``[B, 256 C]``: for probes."""
        video = batch[self.key].float().transpose(1, 2)
        return F.adaptive_avg_pool3d(video, (4, 8, 8)).flatten(1)

    def media(self, sample: dict[str, Tensor]) -> dict[str, Player]:
        """The clip, to be played."""
        return {"clip": Player(self.to_image(sample[self.key]), rate=self.rate or 8.0)}

    def describe(self) -> dict[str, str]:
        """Frames, size, length and scale of what a system gets; reads a few clips."""
        train = self.splits["train"]
        some = train.take(LOOK)
        (height, width), channels = self.preparation.size, self.preparation.channels
        lengths = [some.source.seconds(number) for number in some.index.tolist()]
        how = "spread over the whole" if self.rate is None else f"{self.rate:g} per second"
        colours = f"{channels} channel{'s' * (channels > 1)}"
        lines = {
            "size": f"{self.frames} frames of {height} x {width} pixels, {colours}",
            "frames": how,
        }
        if lengths:
            lines["length"] = f"{span(lengths, 2)} seconds, in a sample of {len(lengths)}"
            x = torch.cat([self.split("train")[i][self.key].flatten() for i in range(min(LOOK, len(train)))])
            lines["normalised"] = f"mean {x.mean():.2f}, standard deviation {x.std():.2f}"
        return lines | ({} if self.words is None else self.words.describe())

    def to_image(self, x: Tensor) -> Tensor:
        return self.preparation.to_image(x)


def _look(split: Split[Clips]) -> tuple[set[tuple[int, int]], bool]:
    """Sizes of frames, and whether all are grey.

    Raises:
        UserError: no clip can be read.
    """
    sizes, grey, last = set[tuple[int, int]](), True, ""
    for number in split.index.tolist():
        try:
            with reading(reason):
                (raw,) = split.source.frames(number, [0.0])
                found = header(raw)
        except BadSample as error:
            last = f"{split.source.name(number)}: {error}"
            continue
        sizes.add(found.size)
        grey = grey and found.channels == 1
    if not sizes:
        raise UserError(f"none of the clips can be read; {last}")
    return sizes, grey
