"""Clouds by number, and which of them are for training and which for testing."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from polymask import UserError
from polymask_pointcloud.datasets.raw import Raw


class Source(Protocol):
    """Clouds by number, each read when it is asked for. Picklable, for worker processes."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Raw:
        """One of them.

        Raises:
            Unreadable: it is damaged.
        """

    def name(self, index: int) -> str:
        """What to call it in messages."""


class Portion:
    """Some clouds of a source: one split.

    Args:
        source: where they are.
        index: int64 ``[n]``, their numbers there.
        labels: int64 ``[n]`` classes; None where there are none.
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
        return self.at(torch.arange(limit) * len(self) // limit)

    def at(self, which: Tensor) -> Portion:
        """Those of some places, by number or bool."""
        return Portion(self.source, self.index[which], None if self.labels is None else self.labels[which])


def whole(source: Source, labels: Tensor | None) -> Portion:
    """All clouds of a source."""
    return Portion(source, torch.arange(len(source)), labels)


def divide(portion: Portion, families: Sequence[str], share: float) -> tuple[Portion, Portion]:
    """Train and test, families whole: a likeness of a test cloud is never trained on.

    In each class, families are put on the test side in the order of a hash of their names while they fit into
    the share; where none fits, the smallest. One family at least stays for training.

    Args:
        portion: all of them.
        families: of each.
        share: of the clouds of each class, in [0, 1).

    Raises:
        UserError: a share out of range.
    """
    if not 0 <= share < 1:
        raise UserError(f"test must be a share of the clouds, 0 <= test < 1, got {share}")
    labels = [0] * len(portion) if portion.labels is None else portion.labels.tolist()
    classes: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, (label, family) in enumerate(zip(labels, families, strict=True)):
        classes[label][family].append(place)
    test = torch.zeros(len(portion), dtype=torch.bool)
    for members in classes.values() if share else ():
        names = sorted(members, key=_digest)
        room = round(share * sum(map(len, members.values())))
        chosen: list[str] = []
        for name in names:
            if len(members[name]) <= room and len(chosen) < len(names) - 1:
                chosen.append(name)
                room -= len(members[name])
        if not chosen and len(names) > 1:
            chosen = [min(names, key=lambda name: len(members[name]))]
        for name in chosen:
            test[members[name]] = True
    return portion.at(~test), portion.at(test)


def numbered(names: Iterable[str], classes: Sequence[str]) -> Tensor:
    """Class numbers, int64, of class names."""
    number = {name: i for i, name in enumerate(classes)}
    return torch.tensor([number[name] for name in names], dtype=torch.int64)


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
