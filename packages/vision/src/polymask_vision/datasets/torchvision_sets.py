"""Data sets that torchvision has a class for."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision.datasets
from torch import Tensor

from polymask import UserError
from polymask.cache import cache_folder
from polymask.portions import whole
from polymask_vision.datasets.base import ImageDataset, prepare
from polymask_vision.datasets.decode import Raw
from polymask_vision.datasets.portions import divide
from polymask_vision.datasets.prepare import Augment

_LABELS = ("targets", "labels", "_labels", "y")
_SAMPLES = ("samples", "_samples", "imgs")


class Torchvision(ImageDataset):
    """Any image classification data set of ``torchvision.datasets``, by the name of its class.

    ``torchvision:CIFAR10`` downloads where the class can; others (``ImageFolder``, ``ImageNet``) want
    their files in ``root``. Where the class knows no test part, a fixed share is held out.

    Args:
        source: name of the class (``torchvision:CIFAR10``).
        root: folder of its files; by default one in the cache.
        arguments: further arguments of the class (``--data.arguments.split letters``).
        size: height and width to scale and crop to. By default that of the images, if it is the same
            for all and at most 224; else 224.
        channels: 1 (grey) or 3; by default 1 if all images are grey.
        test: share of each class to hold out where the class has no test part.
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
        root: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        size: int | Sequence[int] | None = None,
        channels: int | None = None,
        test: float = 0.1,
        augment: Augment = "none",
        crop_scale: Sequence[float] = (0.2, 1.0),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        limit: int | None = None,
    ) -> None:
        cls = _find(source)
        folder = Path(root).expanduser() if root else cache_folder("torchvision") / source
        opened = _open(cls, {"root": str(folder), **(arguments or {})})
        train, *rest = [whole(Opened(data, source), _labels(data)) for data in opened]
        if rest:
            held = rest[0]
        else:
            train, held = divide(train.source, train.labels, test)
        super().__init__(
            train,
            held,
            prepare(
                train,
                size=size,
                channels=channels,
                mean=mean,
                std=std,
                augment=augment,
                crop_scale=crop_scale,
            ),
            classes=None if train.labels is None else _classes(opened[0], train.labels),
            limit=limit,
        )


class Opened:
    """Pictures of a torchvision data set.

    Args:
        data: its samples are pairs, the picture first.
        name: what to call it.
    """

    def __init__(self, data: Any, name: str) -> None:
        self.data, self.title = data, name

    def __len__(self) -> int:
        return len(self.data)

    def read(self, index: int) -> Raw:
        raw: Raw = self.data[index][0]
        return raw

    def name(self, index: int) -> str:
        return f"{self.title} {index}"


def _find(name: str) -> Any:
    known = torchvision.datasets.__all__
    if name not in known:
        near = [k for k in known if k.lower() == name.lower()]
        hint = f"did you mean {near[0]}?" if near else "it has " + ", ".join(known)
        raise UserError(f"torchvision.datasets has no {name!r}; {hint}")
    return getattr(torchvision.datasets, name)


def _open(cls: Any, arguments: dict[str, Any]) -> list[Any]:
    """The training part and, where the class has one, the test part.

    Raises:
        UserError: the class refuses, or cannot download its files.
    """
    parameters = _parameters(cls)
    if "download" in parameters:
        arguments = {"download": True, **arguments}
    arguments = {key: value for key, value in arguments.items() if key != "root" or key in parameters}
    try:
        if "train" in parameters and "train" not in arguments:
            return [cls(**arguments, train=True), cls(**arguments, train=False)]
        if "split" not in parameters or "split" in arguments:
            return [cls(**arguments)]
        opened = [cls(**arguments)]  # which is train, or trainval, by default
        for split in ("test", "val", "valid"):
            with contextlib.suppress(ValueError):
                return [*opened, cls(**arguments, split=split)]
        return opened
    except Exception as error:
        raise UserError(f"torchvision:{cls.__name__}({_shown(arguments)}): {error}") from error


def _parameters(cls: Any) -> set[str]:
    """What a class's constructor takes, by name, with what it hands on to its base."""
    names: set[str] = set()
    for base in cls.__mro__:
        parameters = inspect.signature(base).parameters
        names |= set(parameters)
        if not any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
            break
    return names


def _labels(data: Any) -> Tensor | None:
    """Class of each sample; read off the samples only where the data set has no list of them."""
    lists = [getattr(data, name, None) for name in _LABELS]
    pairs = [getattr(data, name, None) for name in _SAMPLES]
    lists += [[pair[1] for pair in some] for some in pairs if some is not None and _is_pairs(some)]
    for values in lists:
        array = np.asarray(values) if values is not None else np.empty(0)
        if array.shape == (len(data),) and np.issubdtype(array.dtype, np.integer):
            return torch.tensor(array, dtype=torch.int64)
    if not len(data) or not _is_number(data[0][1]):
        return None
    return torch.tensor([int(data[i][1]) for i in range(len(data))])


def _classes(data: Any, labels: Tensor) -> list[str]:
    names = getattr(data, "classes", None) or list(getattr(data, "class_to_idx", ()))
    count = int(labels.max()) + 1
    return [str(name) for name in names] if len(names) >= count else [str(c) for c in range(count)]


def _is_pairs(some: Any) -> bool:
    return isinstance(some, list) and bool(some) and isinstance(some[0], tuple) and len(some[0]) == 2


def _is_number(value: Any) -> bool:
    return isinstance(value, int | np.integer) or (
        isinstance(value, Tensor) and value.dim() == 0 and not value.is_floating_point()
    )


def _shown(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items())
