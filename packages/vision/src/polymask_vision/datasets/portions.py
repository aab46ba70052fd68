"""Pictures by number, and which of them are for training and which for testing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from polymask import UserError
from polymask.portions import Portion, S, Source, whole
from polymask_vision.datasets.decode import Raw


class Pictures(Source, Protocol):
    """Pictures by number, each read when it is asked for."""

    def read(self, index: int) -> Raw:
        """One picture, encoded or decoded."""


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


def divide(source: S, labels: Tensor | None, share: float) -> tuple[Portion[S], Portion[S]]:
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
    everything = whole(source, labels)
    return everything.at(torch.from_numpy(~test)), everything.at(torch.from_numpy(test))


def class_names(*columns: Iterable[str]) -> list[str]:
    """Distinct names, sorted: numbers by value, then words."""

    def natural(name: str) -> tuple[bool, int, str]:
        number = name.isascii() and name.isdigit()
        return not number, int(name) if number else 0, name

    return sorted({name for column in columns for name in column}, key=natural)
