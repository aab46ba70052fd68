"""Samples read one by one from a source: the two splits, and what is done where one cannot be read."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from polymask.data import Samples, Split, evenly
from polymask.errors import UserError

Skipped = list[tuple[str, str]]
"""What was left out, ``(name, reason)``."""

_IN_A_ROW = 100


class Unreadable(Exception):
    """A sample that cannot be used; says why."""


class Source(Protocol):
    """Samples by number; how one is read is between a source and its data set. Picklable, for workers."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What to call one in messages, and in rules that split train from test."""


S = TypeVar("S", bound=Source)
S_co = TypeVar("S_co", bound=Source, covariant=True)


class Portion(Generic[S_co]):
    """Some samples of a source: one split.

    Args:
        source: where they are.
        index: int64 ``[n]``, their numbers there.
        labels: int64 ``[n]`` classes, -1 where unknown; None where there are none.
    """

    def __init__(self, source: S_co, index: Tensor, labels: Tensor | None = None) -> None:
        self.source, self.index, self.labels = source, index, labels
        # in shared memory: what a worker process finds unreadable, the main process can report
        self.unreadable = torch.zeros(len(index), dtype=torch.bool).share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self.index)

    def at(self, which: Tensor) -> Portion[S_co]:
        """Those of some places, by number or bool."""
        return Portion(self.source, self.index[which], None if self.labels is None else self.labels[which])

    def take(self, limit: int | None) -> Portion[S_co]:
        """At most ``limit`` of them, evenly spaced, so that sorted classes stay in proportion.

        Raises:
            UserError: a limit below 1.
        """
        if limit is None or limit >= len(self):
            return self
        if limit < 1:
            raise UserError(f"limit must be 1 or more, got {limit}")
        return self.at(torch.tensor(evenly(len(self), limit)))


class ReadDataset(Generic[S]):
    """A data set of samples that are read one by one; subclasses say how.

    Args:
        train: what to train on.
        test: what to hold out.
        classes: names of the classes, or None.
        skipped: what was left out when the samples were found.
        limit: at most so many samples of each split.

    Attributes:
        what: what its samples are called.
    """

    what: ClassVar[str]

    def __init__(
        self,
        train: Portion[S],
        test: Portion[S],
        *,
        classes: Sequence[str] | None = None,
        skipped: Skipped | None = None,
        limit: int | None = None,
    ) -> None:
        self.portions: dict[Split, Portion[S]] = {"train": train.take(limit), "test": test.take(limit)}
        self.classes = classes
        self._skipped = list(skipped or [])

    def read(self, source: S, number: int, augment: bool) -> dict[str, Tensor]:
        """One sample; by chance (torch's generator) only where it is augmented.

        Raises:
            Unreadable: it cannot be used.
        """
        raise NotImplementedError

    def split(self, name: Split, *, augment: bool = False) -> Samples:
        """Samples of a split.

        Raises:
            UserError: it is empty.
        """
        portion = self.portions[name]
        if not len(portion):
            raise UserError(f"there are no {name} {self.what}: give more of them, or hold out another share")
        return Readings(portion, functools.partial(self.read, augment=augment), self.what, random=augment)

    def labels(self, name: Split) -> Tensor | None:
        return self.portions[name].labels

    @property
    def skipped(self) -> Skipped:
        """What was left out, ``(name, reason)``; grows when reading finds more that is broken."""
        found = [
            (portion.source.name(number), self._why(portion.source, number))
            for portion in self.portions.values()
            for number in portion.index[portion.unreadable].tolist()
        ]
        return self._skipped + found

    def _why(self, source: S, number: int) -> str:
        try:
            self.read(source, number, augment=False)
        except Unreadable as error:
            return str(error)
        return "could not be read during training"


class Readings(Generic[S]):
    """Samples of a portion.

    One that cannot be read after all is replaced by the next one of its class, always the same, with a
    warning the first time.

    Args:
        portion: which.
        read: ``(source, number) -> sample``, see :meth:`ReadDataset.read`.
        what: what they are called.
        random: whether reading draws chance, see :class:`polymask.training.loader.Keyed`.
    """

    def __init__(
        self,
        portion: Portion[S],
        read: Callable[[S, int], dict[str, Tensor]],
        what: str = "samples",
        random: bool = True,
    ) -> None:
        self.portion, self.read, self.what, self.random = portion, read, what, random

    def __len__(self) -> int:
        return len(self.portion)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        source, failed, last = self.portion.source, -1, None
        for place in self._candidates(index % len(self)):
            number = int(self.portion.index[place])
            try:
                sample = self.read(source, number)
            except Unreadable as error:
                failed, last = (place, error) if last is None else (failed, last)
                continue
            if last is not None and not self.portion.unreadable[failed]:
                self.portion.unreadable[failed] = True
                name = source.name(int(self.portion.index[failed]))
                warnings.warn(f"{name}: {last}; {source.name(number)} stands in for it", stacklevel=2)
            return sample
        raise UserError(f"{_IN_A_ROW} {self.what} or more in a row, or all, cannot be read: {last}")

    def _candidates(self, index: int) -> Iterator[int]:
        yield index
        after = (index + torch.arange(1, len(self))) % len(self)
        if self.portion.labels is not None:
            same = self.portion.labels[after] == self.portion.labels[index]
            after = torch.cat([after[same], after[~same]])
        yield from after[:_IN_A_ROW].tolist()


def whole(source: S, labels: Tensor | None = None) -> Portion[S]:
    """All samples of a source."""
    return Portion(source, torch.arange(len(source)), labels)


def numbered(names: Iterable[str | None], classes: Sequence[str] | None) -> Tensor:
    """Class numbers, int64, of class names; -1 for those of none."""
    number = {name: i for i, name in enumerate(classes or ())}
    return torch.tensor([number.get(name or "", -1) for name in names], dtype=torch.int64)
