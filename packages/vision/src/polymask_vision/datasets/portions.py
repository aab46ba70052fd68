"""Pictures by number, and which of them are for training and which for testing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from polymask import UserError
from polymask_vision.datasets.decode import Raw


class Source(Protocol):
    """Pictures by number, each read when it is asked for. Picklable, for worker processes."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Raw:
        """One picture, encoded or decoded."""

    def name(self, index: int) -> str:
        """What to call it in messages, and in the rule that splits train from test."""


class Portion:
    """Some pictures of a source: one split.

    Args:
        source: where they are.
        index: int64 ``[n]``, their numbers there.
        labels: int64 ``[n]`` classes, -1 where unknown; None where there are none.
    """

    def __init__(self, source: Source, index: Tensor, labels: Tensor | None = None) -> None:
        self.source, self.index, self.labels = source, index, labels
        # in shared memory: what a worker process finds unreadable, the main process can report
        self.unreadable = torch.zeros(len(index), dtype=torch.bool).share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self.index)

    def take(self, limit: int | None) -> Portion:
        """At most ``limit`` of them, evenly spaced, so that sorted classes stay in proportion.

        Raises:
            UserError: a limit below 1.
        """
        if limit is None or limit >= len(self):
            return self
        if limit < 1:
            raise UserError(f"limit must be 1 or more, got {limit}")
        at = torch.arange(limit) * len(self) // limit
        return Portion(self.source, self.index[at], None if self.labels is None else self.labels[at])


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


def divide(source: Source, labels: Tensor | None, share: float) -> tuple[Portion, Portion]:
    """Train and test by a fixed rule: in each class, the pictures whose names hash lowest are test.

    A hash does not depend on other files, so adding pictures moves few from one side to the other.

    Args:
        source: all pictures.
        labels: int64 ``[n]`` or None.
        share: of each class, rounded; one picture at least where a class has two or more, in [0, 1).

    Raises:
        UserError: a share out of range.
    """
    if not 0 <= share < 1:
        raise UserError(f"test must be a share of the images, 0 <= test < 1, got {share}")
    n = len(source)
    names = (source.name(i).encode("utf-8", "surrogateescape") for i in range(n))
    digests = (hashlib.blake2b(name, digest_size=8).digest() for name in names)
    rank = np.frombuffer(b"".join(digests), dtype="<u8")
    group = np.zeros(n, dtype=np.int64) if labels is None else labels.numpy()
    test = np.zeros(n, dtype=bool)
    for value in np.unique(group) if share else ():
        members = np.flatnonzero(group == value)
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        test[members[np.argsort(rank[members])[:count]]] = True
    return _portion(source, labels, ~test), _portion(source, labels, test)


def whole(source: Source, labels: Tensor | None) -> Portion:
    """All pictures of a source."""
    return Portion(source, torch.arange(len(source)), labels)


def class_names(*columns: Iterable[str]) -> list[str]:
    """Distinct names, sorted: numbers by value, then words."""

    def natural(name: str) -> tuple[bool, int, str]:
        number = name.isascii() and name.isdigit()
        return not number, int(name) if number else 0, name

    return sorted({name for column in columns for name in column}, key=natural)


def numbered(names: Iterable[str | None], classes: Sequence[str] | None) -> Tensor:
    """Class numbers, int64, of class names; -1 for those of none."""
    number = {name: i for i, name in enumerate(classes or ())}
    return torch.tensor([number.get(name or "", -1) for name in names], dtype=torch.int64)


def _portion(source: Source, labels: Tensor | None, mine: np.ndarray[Any, Any]) -> Portion:
    index = torch.from_numpy(np.flatnonzero(mine))
    return Portion(source, index, None if labels is None else labels[index])
