"""A labelled set of images and one of another look without labels: unsupervised domain adaptation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polymask import UserError
from polymask.data import Dataset, Samples, SplitName, describe, evenly
from polymask.types import Count
from polymask_vision.datasets.maps import LABELS
from polymask_vision.views import OTHER

ALIKE = ("size", "channels", "mean", "std", "range")
"""Facts that both domains share, as one network sees images of both."""


class TwoDomains:
    """Samples ``image`` and ``label_map`` of a source, and ``other``, an image of a target.

    The two are sets of their own (GTA and Cityscapes), or two renderings of one (``earth-domains``). No label
    of the target is in any sample; evaluations read them from the target itself, where it has some. In
    training a target image is drawn at random for each source image, from torch's global generator; else
    sample i holds image i of both, the smaller set from its beginning again.

    Args:
        source_data: images with a ``label_map``, such as ``segmentation:FOLDER``.
        target_data: images of the same size, channels and normalisation, with or without label maps.
        pixel_classes: number of classes of pixels; by default that of the names which the source has.
        limit: maximum number of samples per split.

    Raises:
        UserError: the source has no label maps, nobody knows how many classes there are, or the two are of
            different sizes, channels, normalisation or names of classes.
    """

    def __init__(
        self,
        *,
        source_data: Dataset,
        target_data: Dataset,
        pixel_classes: Count | None = None,
        limit: Count | None = None,
    ) -> None:
        self.source, self.target, self.limit = source_data, target_data, limit
        sample = source_data.split("train")[0]
        if LABELS not in sample:
            raise UserError(
                f"source_data needs a class at each pixel, and its samples have {', '.join(sample)} alone: "
                f"give data whose samples have {LABELS!r}, as those of vision/segmentation"
            )
        ours, theirs = source_data.provides, target_data.provides
        for name in ALIKE:
            if ours.get(name) != theirs.get(name):
                raise UserError(
                    f"one network sees both domains, and {name} is {ours.get(name)} in the source and "
                    f"{theirs.get(name)} in the target: give --data.source_data.{name} and "
                    f"--data.target_data.{name} alike"
                )
        names: Sequence[str] | None = getattr(source_data, "map_classes", None)
        if names is None and pixel_classes is None:
            raise UserError(
                "the source does not name the classes of its pixels: give their number, "
                "--data.pixel_classes, or their names (--data.source_data.labels of vision/segmentation)"
            )
        told: Sequence[str] | None = getattr(target_data, "map_classes", None)
        if told and names and list(told) != list(names):
            raise UserError(
                f"classes of pixels are {', '.join(names)} in the source and {', '.join(told)} in the "
                "target, and evaluations compare them by number: give both the same names in the same order "
                "(--data.source_data.labels, --data.target_data.labels)"
            )
        self.map_classes = names
        self.key, self.classes = source_data.key, source_data.classes
        self.skipped = [*source_data.skipped, *target_data.skipped]
        self.provides: dict[str, Any] = {
            **ours,
            "pixel_classes": pixel_classes or len(names or ()),
        }
        self.provides["samples"] = len(self.split("train"))

    def split(self, name: SplitName, *, augment: bool = False) -> Samples:
        both = [data.split(name, augment=augment) for data in (self.source, self.target)]
        index = evenly(max(map(len, both)), self.limit)
        keys = (self.key, self.target.key)
        return Drawn(both[0], both[1], index, keys, augment, self.provides["pixel_classes"])

    def labels(self, name: SplitName) -> Tensor | None:
        """Of the source image of each sample."""
        found = self.source.labels(name)
        if found is None:
            return None
        n = max(len(data.split(name)) for data in (self.source, self.target))
        return found[torch.tensor(evenly(n, self.limit)) % len(found)]

    def to_image(self, x: Tensor) -> Tensor:
        return self.source.to_image(x)

    def describe(self) -> dict[str, str]:
        """What each of the two says of its samples."""
        pairs = (("source", self.source), ("target", self.target))
        return {f"{name}: {line}": text for name, data in pairs for line, text in describe(data).items()}


class Drawn:
    """Samples of a source, each with an image of a target.

    Args:
        source: samples with labels.
        target: samples of which the image alone is taken.
        index: their numbers; of the smaller set, counted from its beginning again.
        keys: entries of the image of the source and of that of the target.
        random: draw the target at random, rather than by number.
        classes: number of classes of pixels.
    """

    def __init__(
        self,
        source: Samples,
        target: Samples,
        index: Sequence[int],
        keys: tuple[str, str],
        random: bool,
        classes: int,
    ) -> None:
        self.source, self.target = source, target
        self.index, self.keys, self.random, self.classes = index, keys, random, classes

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        number, n = self.index[index], len(self.target)
        other = int(torch.randint(n, ())) if self.random else number % n
        sample, (key, other_key) = self.source[number % len(self.source)], self.keys
        if (most := int(sample[LABELS].max())) >= self.classes:
            raise UserError(
                f"a mask of the source holds {most}, and there are {self.classes} classes, 0 to "
                f"{self.classes - 1}: give a larger --data.pixel_classes, or say what is unknown "
                "(--data.source_data.ignore)"
            )
        return {key: sample[key], LABELS: sample[LABELS], OTHER: self.target[other][other_key]}
