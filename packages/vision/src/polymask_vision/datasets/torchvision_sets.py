"""Data sets that torchvision has a class for."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torchvision.datasets
from torch import Tensor

from polymask import UserError
from polymask.data import Splits, divide, whole
from polymask.data.cache import cache_folder
from polymask.data.wrapped import labels_of
from polymask.types import Share
from polymask_vision.datasets.decode import Raw


def torchvision_set(
    *, source: str, root: str | None = None, arguments: Mapping[str, Any] | None = None, test: Share = 0.1
) -> Splits[Opened]:
    """Any image classification data set of ``torchvision.datasets``, by the name of its class.

    ``torchvision:CIFAR10`` downloads where the class can; others (``ImageFolder``, ``ImageNet``) want
    their files in ``root``. Where the class knows no test part, a fixed share is held out.

    Args:
        source: name of the class (``torchvision:CIFAR10``).
        root: folder of its files; by default one in the cache.
        arguments: further arguments of the class (``--data.arguments.split letters``).
        test: share of each class to hold out where the class has no test part.
    """
    cls = _find(source)
    folder = Path(root).expanduser() if root else cache_folder("torchvision") / source
    opened = _open(cls, {"root": str(folder), **(arguments or {})})
    parts = [whole(Opened(data, source), labels_of(data)) for data in opened]
    labels = parts[0].labels
    train, held = parts if len(parts) == 2 else divide(parts[0], test)
    return Splits(train=train, test=held, classes=None if labels is None else _classes(opened[0], labels))


class Opened:
    """Images of a torchvision data set.

    Args:
        data: its samples are pairs, the image first.
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


def _classes(data: Any, labels: Tensor) -> list[str]:
    names = getattr(data, "classes", None) or list(getattr(data, "class_to_idx", ()))
    count = int(labels.max()) + 1
    return [str(name) for name in names] if len(names) >= count else [str(c) for c in range(count)]


def _shown(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items())
