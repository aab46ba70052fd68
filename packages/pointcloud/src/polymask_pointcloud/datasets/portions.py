"""Clouds by number, and which of them are for training and which for testing."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

import torch

from polymask import UserError
from polymask.data import Split, S, Source
from polymask_pointcloud.datasets.raw import Raw


class Clouds(Source, Protocol):
    """Clouds by number, each read when it is asked for."""

    def read(self, index: int) -> Raw:
        """One of them.

        Raises:
            BadSample: it is damaged.
        """


def divide(portion: Split[S], families: Sequence[str], share: float) -> tuple[Split[S], Split[S]]:
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


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
