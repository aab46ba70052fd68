"""A data set of one's own, from samples in memory or a map-style torch data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from polymask.data.batches import shown
from polymask.data.protocols import Dataset, Samples, SplitName
from polymask.data.splits import held_out
from polymask.errors import UserError

_LABELS = ("targets", "labels", "_labels", "y")
_SAMPLES = ("samples", "_samples", "imgs")
_CLASSES = 1_000_000
"""More classes than this are no classes but numbers of something else, and would fill the memory."""

_NORMALISED = 32.0
"""Floats of mean 0 and deviation 1 stay below, even those of a picture that is white all over."""

_PROTOCOL = ("key", "provides", "split", "labels")


def as_dataset(
    train: Any, *, test: Any = 0.1, key: str = "image", classes: Sequence[str] | None = None
) -> Dataset:
    """Samples by number, in a torch ``Dataset`` or a list, as a data set to train and probe on.

    A sample is a tensor, a pair ``(x, label)``, or a dict of tensors, which may have a ``"label"``: a whole
    number from 0 on, or -1 where unknown. Values in uint8 become float32 in [0, 1], float64 becomes
    float32; floats of images are in [0, 1] or normalised already. Size and channels are those of the first
    image. What is a data set already is returned as it is.

    Args:
        train: samples to train on; with ``test`` a share, all samples.
        test: samples to hold out; or the share of each class to hold out, by a fixed rule of their numbers.
        key: entry of the batch that tensors fill, and that dicts must have: ``"image"``, ``"audio"``, ...
        classes: names of the classes; by default those that ``train.classes`` lists, else the numbers.

    Raises:
        UserError: samples that cannot be trained on, with what to give instead.
    """
    if all(hasattr(train, name) for name in _PROTOCOL):
        dataset: Dataset = train
        return dataset
    sides = [_Side(train, key, "the data")]
    if not isinstance(test, int | float):
        sides.append(_Side(test, key, "the test data"))
    first, other = sides[0].first, sides[-1].first
    if {name: _like(x) for name, x in first.items()} != {name: _like(x) for name, x in other.items()}:
        raise UserError(
            f"train and test differ: a sample is {shown(first)} in one and {shown(other)} in the other; "
            "give both the same entries, dtypes and sizes"
        )
    labels = [labels_of(side.samples) for side in sides]
    if any(column is None for column in labels):
        known: list[Tensor | None] = [None] * len(sides)
        names = None
    else:
        known = labels
        highest = max(int(column.max()) for column in labels if column is not None)
        if highest >= _CLASSES:
            raise UserError(f"a sample has label {highest}: number the classes from 0 on, below {_CLASSES:,}")
        names = list(classes or getattr(train, "classes", None) or map(str, range(highest + 1)))
        if len(names) <= highest:
            raise UserError(f"{len(names)} classes, but a sample has label {highest}; name all classes")
    numbers = [torch.arange(len(side)) for side in sides]
    if len(sides) == 1:
        held = held_out(list(map(str, range(len(sides[0])))), known[0], test)
        numbers = [numbers[0][~held], numbers[0][held]]
        known = [None if known[0] is None else known[0][which] for which in numbers]
        sides *= 2
    return _Wrapped(key, names, [Some(*each) for each in zip(sides, numbers, strict=True)], known, first)


class _Wrapped:
    """The data set."""

    def __init__(
        self,
        key: str,
        classes: list[str] | None,
        splits: Sequence[Some],
        labels: Sequence[Tensor | None],
        first: Mapping[str, Tensor],
    ) -> None:
        self.key = key
        self.classes: Sequence[str] | None = classes
        self.skipped: list[tuple[str, str]] = []
        order: tuple[SplitName, SplitName] = ("train", "test")
        self._splits = dict(zip(order, splits, strict=True))
        self._labels = dict(zip(order, labels, strict=True))
        self.provides: dict[str, Any] = {"samples": len(splits[0])}
        x = first[key]
        if x.dim() == 3:
            self.provides |= {"size": tuple(x.shape[1:]), "channels": x.shape[0]}
            self.provides |= {"mean": (0.0,) * x.shape[0], "std": (1.0,) * x.shape[0]}

    def split(self, name: SplitName, *, augment: bool = False) -> Some:
        """Samples of a split; ``augment`` changes nothing, as the samples augment themselves, if at all.

        Raises:
            UserError: it is empty.
        """
        if not len(self._splits[name]):
            raise UserError(f"there are no {name} samples: give as_dataset more, or another test")
        return self._splits[name]

    def labels(self, name: SplitName) -> Tensor | None:
        return self._labels[name]

    def to_image(self, x: Tensor) -> Tensor:
        """Values as given where they are within [0, 1], else between the lowest and the highest."""
        low, high = x.min(), x.max()
        if low >= 0 and high <= 1:
            return x
        return (x - low) / (high - low).clamp(min=1e-12)


class Some:
    """Samples at some places, int64 ``[n]``."""

    def __init__(self, samples: Samples, index: Tensor) -> None:
        self.samples, self.index = samples, index
        self.random = getattr(samples, "random", True)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return self.samples[int(self.index[index])]


class _Side:
    """Samples of any of the kinds that :func:`as_dataset` takes, as dicts of tensors to train on.

    Args:
        samples: by number.
        key: entry that tensors become.
        what: what to call them in messages.

    Raises:
        UserError: there are none by number, or the first is of no such kind.
    """

    def __init__(self, samples: Any, key: str, what: str) -> None:
        self.samples, self.key, self.what = samples, key, what
        if isinstance(samples, str):
            raise UserError(f"{what} is {samples!r}; a name goes into the configuration, as its 'data'")
        splits = isinstance(samples, Mapping) and 0 not in samples
        if splits or (isinstance(samples, list | tuple) and samples and _is_samples(samples[0])):
            raise UserError(f"{what} is {_article(samples)} of several: give as_dataset(train, test=test)")
        if isinstance(samples, IterableDataset) or not hasattr(samples, "__getitem__"):
            raise UserError(
                f"{what} is {_article(samples)}, whose samples cannot be had by number; give a map-style "
                "data set (__len__ and __getitem__) or a list of samples, so that a run can resume"
            )
        if not hasattr(samples, "__len__"):
            raise UserError(f"{what} is {_article(samples)} without a length: give it __len__")
        if not len(samples):
            raise UserError(f"{what} is empty: give at least one sample")
        self.first: dict[str, Tensor] = {}
        self.first = self[0]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        where = f"{self.what}: sample {number}"
        try:
            found = self.samples[number]
        except Exception as error:
            error.add_note(f"raised by {where}")
            raise
        if isinstance(found, tuple | list):
            if not 1 <= len(found) <= 2:
                raise UserError(f"{where} has {len(found)} parts; give x, (x, label) or a dict of tensors")
            found = found[0]
        if not isinstance(found, Mapping):
            found = {self.key: found}
        sample = {name: _tensor(x, name, where) for name, x in found.items() if name != "label"}
        if self.key not in sample:
            there = ", ".join(map(str, found))
            raise UserError(f"{where} has no {self.key!r}, but {there}; say which: as_dataset(..., key=...)")
        for name, x in self.first.items():
            if name not in sample or _like(x) != _like(sample[name]):
                raise UserError(
                    f"{where} is {shown(sample)}, and sample 0 is {shown(self.first)}; bring all samples "
                    "to the same entries, dtypes and size (only a first axis that is no image's may differ)"
                )
        return sample


def labels_of(samples: Any) -> Tensor | None:
    """Class of each sample, int64 ``[n]``; None where they have none.

    Reads the samples, pairs or dicts, only where the data set has no list of labels (``targets``, ...).

    Raises:
        UserError: a label that is no whole number.
    """
    lists = [getattr(samples, name, None) for name in _LABELS]
    pairs = [getattr(samples, name, None) for name in _SAMPLES]
    lists += [[pair[1] for pair in some] for some in pairs if some is not None and _is_pairs(some)]
    for values in lists:
        array = np.asarray(values) if values is not None else np.empty(0)
        if array.shape == (len(samples),) and np.issubdtype(array.dtype, np.integer):
            return torch.tensor(array, dtype=torch.int64)
    if not len(samples) or _label(samples[0]) is None:
        return None
    found = [_label(samples[i]) for i in range(len(samples))]
    for number, label in enumerate(found):
        if not _is_number(label) or int(label) < -1:
            raise UserError(
                f"the label of sample {number} is {label!r}; give whole numbers from 0 on, -1 where unknown"
            )
    return torch.tensor([int(label) for label in found], dtype=torch.int64)


def _is_samples(some: Any) -> bool:
    """Whether these are samples by number, and not one of them."""
    one = isinstance(some, list | tuple | str | Mapping | Tensor | np.ndarray)
    return not one and hasattr(some, "__getitem__") and hasattr(some, "__len__")


def _label(sample: Any) -> Any:
    if isinstance(sample, Mapping):
        return sample.get("label")
    return sample[1] if isinstance(sample, tuple | list) and len(sample) == 2 else None


def _is_pairs(some: Any) -> bool:
    return isinstance(some, list) and bool(some) and isinstance(some[0], tuple) and len(some[0]) == 2


def _is_number(value: Any) -> bool:
    return (isinstance(value, int | np.integer) and not isinstance(value, bool)) or (
        isinstance(value, Tensor) and value.dim() == 0 and not value.is_floating_point()
    )


def _tensor(found: Any, name: str, where: str) -> Tensor:
    x = torch.from_numpy(found) if isinstance(found, np.ndarray) and found.dtype != object else found
    if not isinstance(x, Tensor):
        advice = "give a tensor (torchvision's ToImage makes one of an image)"
        if _is_number(x):
            advice = "give tensors; the class of a sample is called 'label'"
        elif isinstance(x, str):
            advice = "text needs a vocabulary: open it with polymask-language, as file:PATH or jsonl:PATH"
        raise UserError(f"{where} has {_article(x)} as {name!r}; {advice}")
    if name == "image":
        x = _image(x, where)
    if x.dtype == torch.uint8:
        return x.float() / 255
    return x.float() if x.is_floating_point() else x


def _image(x: Tensor, where: str) -> Tensor:
    """An image with its channels first, ``[C, H, W]``; a grey one may come as ``[H, W]``."""
    if x.dim() == 2:
        x = x[None]
    if x.dim() != 3 or (x.shape[0] > 4 >= x.shape[2]):
        raise UserError(f"{where} is an image of shape {list(x.shape)}; give [channels, height, width]")
    if x.dtype != torch.uint8 and not x.is_floating_point():
        raise UserError(f"{where} is an image of {x.dtype}; give uint8, or floats")
    if x.is_floating_point() and x.numel() and x.min() >= 0 and x.max() > _NORMALISED:
        raise UserError(
            f"{where} is an image of floats of {x.min():.4g} to {x.max():.4g}, which are neither 0 to 1 nor "
            "normalised; divide them by what is white in them (255), or give uint8"
        )
    return x


def _like(x: Tensor) -> tuple[Any, ...]:
    """What is the same of all samples: all of the shape of images, all but the first axis of the others."""
    return x.dtype, x.dim(), tuple(x.shape if x.dim() == 3 else x.shape[1:])


def _article(x: Any) -> str:
    name = type(x).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"
