"""Samples of text: pieces of documents, one to a sequence or packed."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymask.data.splits import Names
from polymask_language.datasets.encoded import Encoded, ends_of
from polymask_language.tokenizers import TAGS


class Sequences:
    """Samples: ``text``, ``word`` and, where asked for, ``document`` and ``part_of_speech``, int64 ``[L]``.

    Args:
        encoded: the corpus.
        starts: int64 ``[pieces]``, where each piece begins in it.
        stops: int64 ``[pieces]``, where each ends.
        spans: int64 ``[samples, 2]``, the first piece of each sample and the one after its last.
        around: ids before and after each piece.
        packed: tell the number of each token's document.
        tags: tell parts of speech.
        names: of the first document of each sample.
    """

    random = False
    """Nothing is drawn in reading them, see :class:`polymask.training.loader.Keyed`."""

    def __init__(
        self,
        encoded: Encoded,
        starts: Tensor,
        stops: Tensor,
        spans: Tensor,
        *,
        around: tuple[int | None, int | None],
        packed: bool,
        tags: bool,
        names: Names | None = None,
    ) -> None:
        self.encoded, self.starts, self.stops, self.spans = encoded, starts, stops, spans
        self._ends, self.packed, self.tags, self._names = ends_of(around), packed, tags, names

    def names(self) -> list[str] | None:
        """The name of the file that each sample begins in; None where documents have no files."""
        return None if self._names is None else [self._names[i] for i in range(len(self))]

    def __len__(self) -> int:
        return len(self.spans)

    @property
    def lengths(self) -> Tensor:
        """int64 ``[samples]``."""
        size = self.stops - self.starts + sum(map(len, self._ends))
        return torch.cat([size.new_zeros(1), size.cumsum(0)])[self.spans].diff(dim=1)[:, 0]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        first, last = self.spans[index].tolist()
        pieces = [*zip(self.starts[first:last].tolist(), self.stops[first:last].tolist(), strict=True)]
        before, after = self._ends
        ids, begins = self.encoded.array("ids"), self.encoded.array("begins")
        text = _joined((before, ids[a:b], after) for a, b in pieces)
        # a piece may begin within a word
        lead, tail = np.ones(len(before) + 1, dtype=bool), np.ones(len(after), dtype=bool)
        begin = _joined((lead, begins[a + 1 : b], tail) for a, b in pieces)
        sample = {"text": text, "word": begin.cumsum(0) - 1}
        if self.packed:
            sizes = torch.tensor([len(before) + b - a + len(after) for a, b in pieces])
            sample["document"] = torch.arange(len(pieces)).repeat_interleave(sizes)
        if self.tags:
            tags, other = self.encoded.array("tags"), len(TAGS) - 1
            around = (np.full_like(before, other), np.full_like(after, other))
            sample["part_of_speech"] = _joined((around[0], tags[a:b], around[1]) for a, b in pieces)
        return sample


def _joined(pieces: Iterable[tuple[np.ndarray[Any, Any], ...]]) -> Tensor:
    """The parts of all pieces one after another, int64."""
    return torch.from_numpy(np.concatenate([part for piece in pieces for part in piece], dtype=np.int64))


def cut(starts: Tensor, stops: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Documents in pieces of at most ``length``; those of one document differ by one token at most.

    Returns:
        Start, stop and the number of the document of each piece, int64.
    """
    size = stops - starts
    count = (size + length - 1) // length
    owner = torch.arange(len(size)).repeat_interleave(count)
    turn = torch.arange(len(owner)) - (count.cumsum(0) - count)[owner]
    begin = starts[owner] + size[owner] * turn // count[owner]
    end = starts[owner] + size[owner] * (turn + 1) // count[owner]
    return begin, end, owner


def pack(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Pieces put into sequences of at most ``length``: the longest first, each where it leaves least room.

    Best-fit decreasing; what one sequence holds does not see the rest of it.

    Args:
        sizes: of the pieces, none longer than ``length``.
        length: tokens of a sequence.

    Returns:
        Numbers of the pieces of each sequence.
    """
    order = np.argsort(-np.asarray(sizes), kind="stable").tolist()
    sequences: list[list[int]] = []
    by_room: dict[int, list[int]] = {}
    rooms: list[int] = []  # those that occur, rising
    for piece in order:
        size = int(sizes[piece])
        at = bisect.bisect_left(rooms, size)
        if at < len(rooms):
            room = rooms[at]
            number = by_room[room].pop()
            if not by_room[room]:
                del rooms[at]
        else:
            room, number = length, len(sequences)
            sequences.append([])
        sequences[number].append(piece)
        left = room - size
        if not by_room.get(left):
            bisect.insort(rooms, left)
        by_room.setdefault(left, []).append(number)
    return sequences
