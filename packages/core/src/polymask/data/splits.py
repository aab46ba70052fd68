"""The two splits of a source of samples: how they are divided, and what is done where one cannot be read."""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from polymask.data.protocols import Samples, SplitName
from polymask.data.reading import BadSample, exhausted
from polymask.errors import UserError

Skipped = list[tuple[str, str]]
"""What was left out, ``(name, reason)``."""

_IN_A_ROW = 100


class Source(Protocol):
    """Samples by number; a source and its data set agree on how one is read. Picklable, for workers."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Name of a sample in messages, and in the rule that divides train from test."""


S = TypeVar("S", bound=Source)
S_co = TypeVar("S_co", bound=Source, covariant=True)


class Split(Generic[S_co]):
    """Some samples of a source.

    Args:
        source: where they are.
        index: int64 ``[n]``, their numbers there.
        labels: int64 ``[n]`` classes, -1 where unknown; None where there are none.
    """

    def __init__(self, source: S_co, index: Tensor, labels: Tensor | None = None) -> None:
        self.source, self.index, self.labels = source, index, labels
        # in shared memory: the main process reports what a worker process could not read
        self.bad = torch.zeros(len(index), dtype=torch.bool).share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self.index)

    def at(self, which: Tensor) -> Split[S_co]:
        """The samples at some places, by number or bool."""
        return Split(self.source, self.index[which], None if self.labels is None else self.labels[which])

    def take(self, limit: int | None) -> Split[S_co]:
        """At most ``limit`` of them, evenly spaced, so that sorted classes stay in proportion."""
        if limit is not None and limit < 1:
            raise UserError(f"limit must be 1 or more, got {limit}")
        if limit is None or limit >= len(self):
            return self
        return self.at(torch.tensor(evenly(len(self), limit)))

    def names(self) -> list[str]:
        """The name of each sample."""
        return [self.source.name(number) for number in self.index.tolist()]


@dataclass(frozen=True, kw_only=True)
class Splits(Generic[S_co]):
    """What a reader found.

    Args:
        train: samples to train on.
        test: samples to hold out.
        classes: names of the classes, or None.
        skipped: what was left out, with the reason.
        suggested: values for options of the data set that nobody set, that is, which are None.
    """

    train: Split[S_co]
    test: Split[S_co]
    classes: Sequence[str] | None = None
    skipped: Skipped = field(default_factory=list)
    suggested: Mapping[str, Any] = field(default_factory=dict)


class FileDataset(Generic[S]):
    """A data set of samples that are read one by one; subclasses say how, and ``what`` these are called.

    Args:
        found: what a reader found.
        limit: maximum number of samples per split.
    """

    what: ClassVar[str]

    def __init__(self, found: Splits[S], /, *, limit: int | None = None) -> None:
        self.splits: dict[SplitName, Split[S]] = {
            "train": found.train.take(limit),
            "test": found.test.take(limit),
        }
        self.classes = found.classes
        self._skipped = list(found.skipped)

    def read(self, source: S, number: int, augment: bool) -> dict[str, Tensor]:
        """One sample; random (from torch's generator) only where it is augmented.

        Raises:
            BadSample: it cannot be used.
        """
        raise NotImplementedError

    def split(self, name: SplitName, *, augment: bool = False) -> Samples:
        """Samples of a split.

        Raises:
            UserError: it is empty.
        """
        split = self.splits[name]
        if not len(split):
            raise UserError(f"there are no {name} {self.what}: give more of them, or hold out another share")
        return LazySamples(split, functools.partial(self.read, augment=augment), self.what, random=augment)

    def labels(self, name: SplitName) -> Tensor | None:
        return self.splits[name].labels

    @property
    def skipped(self) -> Skipped:
        """What was left out, ``(name, reason)``; grows when reading finds more that is broken."""
        found = [
            (split.source.name(number), self._why(split.source, number))
            for split in self.splits.values()
            for number in split.index[split.bad].tolist()
        ]
        return self._skipped + found

    def _why(self, source: S, number: int) -> str:
        try:
            self.read(source, number, augment=False)
        except BadSample as error:
            return str(error)
        return "could not be read during training"


class LazySamples(Generic[S]):
    """Samples of a split, each read when it is asked for.

    One that cannot be read after all is replaced by the next one of its class, always the same, with a
    warning the first time.

    Args:
        split: which samples.
        read: ``(source, number) -> sample``, see :meth:`FileDataset.read`.
        what: what they are called.
        random: whether reading is random, see :class:`polymask.training.loader.Keyed`.
    """

    def __init__(
        self,
        split: Split[S],
        read: Callable[[S, int], dict[str, Tensor]],
        what: str = "samples",
        random: bool = True,
    ) -> None:
        self.split, self.read, self.what, self.random = split, read, what, random
        self.names = split.names

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        source, wanted, last = self.split.source, index % len(self), None
        name = source.name(int(self.split.index[wanted]))
        for place in self._candidates(wanted):
            number = int(self.split.index[place])
            try:
                sample = self.read(source, number)
            except BadSample as error:
                last = last or error
                continue
            except Exception as error:
                if not exhausted(error):
                    raise
                raise UserError(
                    f"out of memory or of open files while reading {source.name(number)}: {error}. "
                    "Give fewer --workers or a smaller --batch_size; the file itself may be whole"
                ) from error
            if last is not None and not self.split.bad[wanted]:
                self.split.bad[wanted] = True
                other = ""
                if self.split.labels is not None and self.split.labels[place] != self.split.labels[wanted]:
                    other = ", of another class, as none of its own can be read"
                warnings.warn(f"{name}: {last}; {source.name(number)} stands in for it{other}", stacklevel=2)
            return sample
        raise UserError(
            f"{_IN_A_ROW} {self.what} or more in a row, or all, cannot be read; the first, {name}: {last}"
        )

    def _candidates(self, index: int) -> Iterator[int]:
        yield index
        after = (index + torch.arange(1, len(self))) % len(self)
        if self.split.labels is not None:
            same = self.split.labels[after] == self.split.labels[index]
            after = torch.cat([after[same], after[~same]])
        yield from after[:_IN_A_ROW].tolist()


class Names:
    """Many strings in one block of memory.

    Worker processes count references to each object of a list, which copies its pages bit by bit; a
    list of a million paths then costs every worker its own copy.
    """

    def __init__(self, names: Sequence[str]) -> None:
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self._text = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        start = int(self._ends[index - 1]) if index else 0
        return self._text[start : int(self._ends[index])].decode("utf-8", "surrogateescape")


def whole(source: S, labels: Tensor | None = None) -> Split[S]:
    """All samples of a source."""
    return Split(source, torch.arange(len(source)), labels)


def divide(split: Split[S], share: float) -> tuple[Split[S], Split[S]]:
    """Train and test, by the names of the samples: see :func:`held_out`."""
    test = held_out(split.names(), split.labels, share)
    return split.at(~test), split.at(test)


def held_out(keys: Sequence[str], labels: Tensor | None, share: float) -> Tensor:
    """Which samples to test on, by a fixed rule: bool ``[n]``.

    In each class the keys that hash lowest. A hash does not depend on other samples, so adding some moves
    few from one side to the other. Samples of one key stay together.

    Args:
        keys: the name of each sample, or what it has in common with others.
        labels: int64 ``[n]`` or None.
        share: of the keys of each class, rounded; one at least where a class has two or more, in [0, 1).

    Raises:
        UserError: a share out of range.
    """
    if not 0 <= share < 1:
        raise UserError(f"test must be a share of the samples, 0 <= test < 1, got {share}")
    members: dict[int, dict[str, list[int]]] = {}
    for place, (key, label) in enumerate(
        zip(keys, [0] * len(keys) if labels is None else labels.tolist(), strict=True)
    ):
        members.setdefault(label, {}).setdefault(key, []).append(place)
    chosen: list[int] = []
    for places in members.values() if share else ():
        count = min(max(round(share * len(places)), 1), len(places) - 1)
        chosen += [place for key in sorted(places, key=hash_key)[:count] for place in places[key]]
    test = torch.zeros(len(keys), dtype=torch.bool)
    test[chosen] = True
    return test


def hash_key(key: str) -> bytes:
    """A hash of a name, in the order of which names are held out."""
    return hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest()


def evenly(n: int, count: int | None = None) -> list[int]:
    """``count`` of ``n`` samples at equal distances, so that sorted classes all show; all by default."""
    count = min(count or n, n)
    return [i * n // count for i in range(count)]


def class_numbers(names: Iterable[str | None], classes: Sequence[str] | None) -> Tensor:
    """Class numbers, int64, of class names; -1 for those of none."""
    number = {name: i for i, name in enumerate(classes or ())}
    return torch.tensor([number.get(name or "", -1) for name in names], dtype=torch.int64)


def class_names(*columns: Iterable[str | None]) -> list[str]:
    """Distinct names, sorted: numbers by value, then words; None is no name."""

    def natural(name: str) -> tuple[bool, int, str]:
        number = name.isascii() and name.isdigit()
        return not number, int(name) if number else 0, name

    return sorted({name for column in columns for name in column if name is not None}, key=natural)
