"""What was found out about many files, kept so that the same files need not be looked at again.

Kept is what a file gave, never that nothing changed: every file is still asked for its size, its times and
its number on the disk, and looked at again where any differs. What could not be used is looked at every time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from polymask import __version__
from polymask.data.cache import cache_folder
from polymask.data.reading import BadSample
from polymask.errors import UserError
from polymask.files import atomic

Identity = tuple[int, int, int, int]
"""Size of a file in bytes, when its content and when anything of it was changed, in ns, and its number."""

FEW = 1000
"""Files below which nothing is kept: looking at them is quick."""

FRESH = 2 * 10**9
"""Nanoseconds within which a file may change again without a change of its times."""

T = TypeVar("T")


class Findings(Generic[T]):
    """What looking at some files gave before, and which of them are to be looked at.

    Args:
        key: what tells these files, and the way they are looked at, from others.
        names: of the files.
        identities: of each.
        since: when the first of these was asked for, in nanoseconds.
        again: what was found, made of it as JSON; None to keep nothing.

    Attributes:
        unknown: names of files to look at.
    """

    def __init__(
        self,
        key: Sequence[str],
        names: Sequence[str],
        identities: Sequence[Identity],
        since: int,
        again: Callable[[Any], T] | None,
    ) -> None:
        self._names, self.unknown = names, names
        self._path = None if again is None or len(names) < FEW else kept_path("folders", key)
        self._rows, self._values = np.full(len(names), -1), list[T]()
        if self._path is None or again is None:
            return
        self._identities = np.array(identities, dtype=np.int64)
        self._settled = self._identities[:, 1:3].max(axis=1) < since - FRESH
        with contextlib.suppress(Exception):  # whatever was kept and is no such thing is nothing
            self._recall(load(self._path), again)
        self.unknown = [names[i] for i in np.flatnonzero(self._rows < 0).tolist()]

    def _recall(self, kept: Mapping[str, npt.NDArray[Any]], again: Callable[[Any], T]) -> None:
        """Find the rows of the same files in what was kept."""
        known, identities = unpacked(kept["names"]), kept["identities"]
        values = [again(value) for value in unpacked(kept["values"])]
        if not len(known) == len(values) == len(identities) > 0:
            return
        rows = np.arange(len(known))
        if known != self._names:
            place = {name: row for row, name in enumerate(known)}
            rows = np.array([place.get(name, -1) for name in self._names])
        same = (rows >= 0) & (identities[rows] == self._identities).all(axis=1)
        self._rows, self._values = np.where(same, rows, -1), values

    def complete(self, new: Iterator[T | BadSample]) -> Iterator[tuple[str, T | BadSample]]:
        """Each file and what it gave, in order; keeps that.

        Args:
            new: what looking at the unknown files gives, in their order.
        """
        places, values = list[int](), list[T]()
        for place, (name, row) in enumerate(zip(self._names, self._rows.tolist(), strict=True)):
            found = next(new) if row < 0 else self._values[row]
            if self._path is not None and not isinstance(found, BadSample) and self._settled[place]:
                places.append(place)
                values.append(found)
            yield name, found
        added = (self._rows[places] < 0).any() or len(places) != len(self._values)
        if self._path is not None and added:
            names = packed([self._names[place] for place in places])
            save(self._path, names=names, values=packed(values), identities=self._identities[places])


def kept_path(kind: str, key: Sequence[str]) -> Path:
    """Where something of a kind is kept, of this version of polymask."""
    text = json.dumps([__version__, *key])
    return (
        cache_folder("indexes") / f"{kind}-{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}.npz"
    )


def packed(value: Any) -> npt.NDArray[np.uint8]:
    """A value as JSON, as an array."""
    return np.frombuffer(json.dumps(value, default=dataclasses.asdict).encode(), dtype=np.uint8)


def unpacked(array: npt.NDArray[Any]) -> Any:
    """What was packed."""
    return json.loads(array.tobytes())


def load(path: Path) -> dict[str, npt.NDArray[Any]]:
    """What was kept; nothing where there is nothing, or it is damaged, which can raise nearly anything."""
    try:
        # zip files have a checksum of each array
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            return dict(found)
    except Exception:
        return {}


def save(path: Path, **arrays: npt.NDArray[Any]) -> None:
    """Keep something, whole or not at all, where that can be written."""
    with contextlib.suppress(UserError, OSError), atomic(path, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
