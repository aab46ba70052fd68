"""Data sets of the Hugging Face hub, or local folders in its layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor

from polymask import UserError, hub
from polymask.portions import numbered, whole
from polymask_vision.datasets.base import ImageDataset, prepare
from polymask_vision.datasets.decode import Raw
from polymask_vision.datasets.portions import class_names, divide
from polymask_vision.datasets.prepare import Augment


class HuggingFace(ImageDataset):
    """A data set of the Hugging Face hub, by name, or a local folder in the hub's layout.

    The column of images, and that of classes if there is one, are found by their type and name. The
    split ``train`` is trained on; ``test``, else ``validation``, is held out; without either, a fixed
    share of each class is.

    Args:
        source: name on the hub, or a folder (``hf:ylecun/mnist``, ``hf:FOLDER``).
        config: which of several configurations.
        image: column of images.
        label: column of classes; ``none`` to use none.
        streaming: not possible: a stream cannot be resumed exactly.
        size: height and width to scale and crop to. By default that of the images, if it is the same
            for all and at most 224; else 224.
        channels: 1 (grey) or 3; by default 1 if all images are grey.
        test: share of each class to hold out where there is no split for it.
        augment: random augmentation in training.
        crop_scale: areas of ``crop-flip``, as shares of the picture.
        mean: per channel, of values in [0, 1]; by default ImageNet's.
        std: standard deviation per channel; by default ImageNet's.
        limit: at most so many images of each split.
    """

    def __init__(
        self,
        *,
        source: str,
        config: str | None = None,
        image: str | None = None,
        label: str | None = None,
        streaming: bool = False,
        size: int | Sequence[int] | None = None,
        channels: int | None = None,
        test: float = 0.1,
        augment: Augment = "none",
        crop_scale: Sequence[float] = (0.2, 1.0),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        limit: int | None = None,
    ) -> None:
        if streaming:
            raise UserError(
                "hf: does not stream: a stream has no random access, and a run could not be resumed exactly. "
                "Leave streaming out (the data is kept in a cache and mapped, not loaded into memory)"
            )
        splits = hub.load(source, config)
        features = splits[0].features
        image = _image_column(features, image, source)
        label = hub.label_column(features, label, source)
        tables = [Table(split, image, source) for split in splits]
        classes, labels = _classes(splits, label)
        portions = [whole(table, mine) for table, mine in zip(tables, labels, strict=True)]
        if len(portions) == 1:
            portions = list(divide(tables[0], labels[0], test))
        super().__init__(
            portions[0],
            portions[1],
            prepare(
                portions[0],
                size=size,
                channels=channels,
                mean=mean,
                std=std,
                augment=augment,
                crop_scale=crop_scale,
            ),
            classes=classes,
            limit=limit,
        )


class Table:
    """The images of a split, as the bytes they are stored as.

    Args:
        split: a split of a data set.
        column: where its images are.
        title: what to call it.
    """

    def __init__(self, split: Any, column: str, title: str) -> None:
        images = split.select_columns([column])
        if isinstance(split.features[column], datasets.Image):
            images = images.cast_column(column, datasets.Image(decode=False))
        self.images, self.column, self.title = images, column, title

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Raw:
        value = self.images[index][self.column]
        if isinstance(value, Mapping):
            raw: Raw = value["bytes"] or Path(value["path"]).read_bytes()
            return raw
        return np.asarray(value, dtype=np.uint8)

    def name(self, index: int) -> str:
        return f"{self.title} {index}"


def _image_column(features: Mapping[str, Any], wanted: str | None, source: str) -> str:
    if wanted is not None:
        return hub.existing(features, wanted, source)
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    if not images:
        arrays = datasets.Array2D | datasets.Array3D
        images = [name for name, kind in features.items() if isinstance(kind, arrays)]
    if len(images) != 1:
        columns = ", ".join(features)
        raise UserError(
            f"hf:{source} has {len(images)} columns of images; choose one (--data.image), of: {columns}"
        )
    return images[0]


def _classes(splits: list[Any], label: str | None) -> tuple[list[str] | None, list[Tensor | None]]:
    if label is None:
        return None, [None] * len(splits)
    columns = [
        split.select_columns([label]).with_format("numpy")[:][label] if label in split.features else None
        for split in splits
    ]
    kind = splits[0].features[label]
    if isinstance(kind, datasets.ClassLabel):
        return list(kind.names), [None if c is None else torch.tensor(c, dtype=torch.int64) for c in columns]
    names = [None if c is None else [str(value) for value in c] for c in columns]
    known = class_names(*(some for some in names if some))
    return known, [None if some is None else numbered(some, known) for some in names]
