"""Data sets of the Hugging Face hub, or local folders in its layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from polymask.data import BadSample, Splits, divide, hub, whole
from polymask.types import Count, Share
from polymask_vision.datasets.decode import Raw
from polymask_vision.datasets.texts import SeveralCaptions

CAPTION = ("caption", "captions", "text", "texts", "description")
"""Columns that hold captions, where none is named."""


def huggingface(
    *,
    source: str,
    config: str | None = None,
    image: str | None = None,
    label: str | None = None,
    caption: str | None = None,
    streaming: bool = False,
    images: Count | None = None,
    test: Share = 0.1,
) -> Splits[Table]:
    """A data set of the Hugging Face hub, by name, or a local folder in the hub's layout.

    The columns of images, of classes and of captions, if there are such, are found by type and name. The
    split ``train`` is trained on; ``test``, else ``validation``, is held out; without either, a fixed
    share of each class is.

    A stream has no random access and cannot be resumed exactly, so of one that is asked for the first
    ``images`` of each split are read, once, and kept in memory as they are stored. Without, the data is kept
    in a cache and mapped, not loaded into memory.

    Args:
        source: name on the hub, or a folder (``hf:ylecun/mnist``, ``hf:FOLDER``).
        config: which of several configurations.
        image: column of images.
        label: column of classes; ``none`` to use none.
        caption: column of captions, a text or several for each image; ``none`` to use none.
        streaming: read the first ``images`` of each split and leave the rest where it is.
        images: maximum number of images of each split to look at.
        test: share of each class to hold out where there is no split for it.
    """
    splits = hub.load(source, config, streaming=streaming, option="images", most=images)
    features = splits[0].features
    image = _image_column(features, image, source)
    label = hub.label_column(features, label, source)
    caption = _caption_column(features, caption, source)
    tables = [
        Table(split, image, source) if caption is None else CaptionedTable(split, image, caption, source)
        for split in splits
    ]
    parts, classes = [whole(table) for table in tables], None
    if label is not None:
        classes, labels = hub.classes_of(features[label], [_values(split, label) for split in splits])
        parts = [whole(table, mine) for table, mine in zip(tables, labels, strict=True)]
    train, held = parts if len(parts) == 2 else divide(parts[0], test)
    return Splits(train=train, test=held, classes=classes)


class Table:
    """The images of a split, as the bytes they are stored as.

    Args:
        split: a split of a data set.
        column: where its images are.
        title: what to call it.
    """

    def __init__(self, split: Any, column: str, title: str) -> None:
        images, kind = split.select_columns([column]), split.features[column]
        self.dtype = getattr(kind, "dtype", None)
        if isinstance(kind, datasets.Image):
            images = images.cast_column(column, datasets.Image(decode=False))
        self.images, self.column, self.title = images, column, title

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Raw:
        value = self.images[index][self.column]
        if value is None:
            raise BadSample("no image")
        if isinstance(value, Mapping):
            raw: Raw = value["bytes"] or Path(value["path"]).read_bytes()
            return raw
        return np.asarray(value, dtype=self.dtype)

    def name(self, index: int) -> str:
        return f"{self.title} {index}"


class CaptionedTable(SeveralCaptions, Table):
    """The images of a split and their captions.

    Args:
        split: a split of a data set.
        column: where its images are.
        caption: where their captions are, a text or several for each.
        title: what to call it.
    """

    def __init__(self, split: Any, column: str, caption: str, title: str) -> None:
        super().__init__(split, column, title)
        told = ([x] if isinstance(x, str) else x or () for x in split.select_columns([caption])[:][caption])
        self.captions = [[text for text in own if text and text.strip()] for own in told]


def _caption_column(features: Mapping[str, Any], wanted: str | None, source: str) -> str | None:
    if wanted is not None:
        return None if wanted == "none" else hub.existing(features, wanted, source)
    return next((name for name in CAPTION if name in features and _texts(features[name])), None)


def _texts(kind: Any) -> bool:
    """Whether a column holds text, or several texts in each row."""
    return getattr(getattr(kind, "feature", kind), "dtype", None) in ("string", "large_string")


def _image_column(features: Mapping[str, Any], wanted: str | None, source: str) -> str:
    types: tuple[type, ...] = (datasets.Image,)
    if not any(isinstance(kind, types) for kind in features.values()):
        types = (datasets.Array2D, datasets.Array3D)
    return hub.column(features, wanted, source, "image", "images", lambda kind: isinstance(kind, types))


def _values(split: Any, label: str) -> Sequence[Any]:
    if label not in split.features:
        return [None] * len(split)
    values: Sequence[Any] = split.select_columns([label]).with_format("numpy")[:][label]
    return values
