"""Shards in WebDataset's format: tar files in which the files of a sample share their name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np

from polymask import UserError
from polymask.data import Skipped, Splits, class_names, class_numbers, divide, whole
from polymask.data.splits import Names
from polymask.types import Share
from polymask_vision.datasets import remote
from polymask_vision.datasets.decode import ENDINGS
from polymask_vision.datasets.shard_index import Index, indexes

Files = Sequence[tuple[str, remote.About]]
"""Paths of shards, and what is known of each."""


def webdataset(
    *,
    source: str,
    test_source: str | None = None,
    image: str | None = None,
    label: str = "cls",
    caption: str = "txt",
    test: Share = 0.1,
) -> Splits[Shards]:
    """Tar files in WebDataset's format, here or far: ``a.jpg``, ``a.cls``, ``a.txt`` are one sample.

    The files of a sample, its image, class and caption, share their name up to its first dot, and may lie
    anywhere in their tar file. A sample of several images is left out unless ``image`` says which is meant.

    The members are indexed once and read by their place in the file: random access, so that training shuffles
    all samples alike and resumes exactly, which a stream of shards cannot. Shards may lie wherever fsspec
    reaches (``https://``, ``s3://``, ``gs://``, whose package is yours to install): only what is asked for is
    read, the samples of a batch side by side.

    Args:
        source: a tar file, a folder of them, or a pattern: ``wds:train-{000..099}.tar``, ``wds:train-*.tar``,
            ``wds:s3://bucket/train-{000..099}.tar``.
        test_source: the same for shards to test on; by default a fixed share of each class is held out.
        image: ending of the image's file; by default any known one.
        label: ending of the file that holds the class, or ``json:FIELD``; ``none`` to use none.
        caption: the same of the caption.
        test: share of each class to hold out where there are no shards for it.
    """
    skipped: Skipped = []
    read = [_read(p, image, label, caption, skipped) for p in (source, test_source) if p]
    captioned = any(any(index.captions) for _, indexed in read for index in indexed)
    shards = [(CaptionedShards if captioned else Shards)(*one) for one in read]
    classes = class_names(*(part.classes for part in shards)) or None
    if classes is None and label not in ("cls", "none"):
        raise UserError(f"wds:{source}: no sample has a label {label!r}: choose another --data.label")
    labels = [None if classes is None else class_numbers(part.classes, classes) for part in shards]
    parts = [whole(part, mine) for part, mine in zip(shards, labels, strict=True)]
    train, held = parts if len(parts) == 2 else divide(parts[0], test)
    return Splits(train=train, test=held, classes=classes, skipped=skipped)


class Shards:
    """The images in some tar files.

    Args:
        files: path of each and what is known of it.
        indexed: what each holds.
    """

    def __init__(self, files: Files, indexed: Sequence[Index]) -> None:
        self.paths = [path for path, _ in files]
        self.file_sizes = [about.size for _, about in files]
        self.keys = Names([key for index in indexed for key in index.keys])
        self.classes = [name for index in indexed for name in index.classes]
        places = [place for index in indexed for place in index.places]
        self._place = np.array(places, dtype=np.int64).reshape(-1, 2)
        self._ahead = dict[int, bytes]()
        self._shard = np.repeat(np.arange(len(indexed)), [len(index.keys) for index in indexed])

    def __len__(self) -> int:
        return len(self.keys)

    def fetch(self, numbers: Sequence[int]) -> None:
        """Read some that are asked for next, if they are far, side by side."""
        far = [number for number in numbers if remote.is_far(self.paths[self._shard[number]])]
        self._ahead = dict(zip(far, remote.read_many(map(self._where, far)), strict=True))

    def read(self, index: int) -> bytes:
        if index in self._ahead:
            return self._ahead.pop(index)
        return remote.read(*self._where(index))

    def _where(self, index: int) -> tuple[str, int, int]:
        start, size = self._place[index].tolist()
        return self.paths[self._shard[index]], start, size

    def name(self, index: int) -> str:
        return f"{PurePosixPath(remote.shown(self.paths[self._shard[index]])).name}/{self.keys[index]}"


class CaptionedShards(Shards):
    """The images in some tar files, and a few words about each; arguments as of :class:`Shards`."""

    def __init__(self, files: Files, indexed: Sequence[Index]) -> None:
        super().__init__(files, indexed)
        self.captions = Names([caption for index in indexed for caption in index.captions])

    def caption(self, index: int) -> str:
        """Empty where there is none."""
        return self.captions[index]


def _read(
    pattern: str, image: str | None, label: str, caption: str, skipped: Skipped
) -> tuple[Files, list[Index]]:
    """Shards and what each holds.

    Args:
        pattern: which files.
        image: ending of the image's file, or None for any known one.
        label: ending of the file that holds the class, or ``json:FIELD``.
        caption: the same of the caption.
        skipped: takes what is left out, ``(shard or member, reason)``.

    Raises:
        UserError: no such files, or no images in them.
    """
    files = find_shards(pattern)
    key = pattern if remote.is_far(pattern) else os.path.abspath(pattern)
    indexed = indexes(files, image, label, caption, [remote.shown(key)])
    for (path, _), index in zip(files, indexed, strict=True):
        shown = remote.shown(path)
        skipped.extend((f"{shown}/{name}" if name else shown, reason) for name, reason in index.skipped)
    if not any(index.keys for index in indexed):
        reason = f"; {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        endings = image or ", ".join(ENDINGS)
        raise UserError(f"wds:{pattern}: no images ({endings}) in {len(files)} shards{reason}")
    return files, indexed


def find_shards(pattern: str) -> list[tuple[str, remote.About]]:
    """Files that a pattern with braces and wildcards names, sorted as given, and what is known of each.

    Raises:
        UserError: a pipe, or files that are not there.
    """
    if pattern.startswith("pipe:"):
        raise UserError(f"wds:{pattern}: a pipe cannot be read at random; give the address of the shards")
    if not remote.is_far(pattern):
        pattern = os.path.expanduser(pattern)

    def paths() -> Iterator[str]:
        for name in [pattern] if os.path.isdir(pattern) else expand_braces(pattern):
            found = remote.find(name, ".tar")
            if not found:
                there = remote.shown(name) if remote.is_far(name) else os.path.abspath(name)
                raise UserError(f"wds:{remote.shown(pattern)}: there is no file {there}")
            yield from found

    return list(remote.about(paths()))


def expand_braces(pattern: str) -> Iterator[str]:
    """``a{00..02}{x,y}`` to ``a00x``, ``a00y``, ``a01x``, ...: one by one, as there may be many."""
    match = re.search(r"\{([^{}]*(?:,|\.\.)[^{}]*)\}", pattern)
    if match is None:
        yield pattern
        return
    span = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if span:
        numbers = range(int(span[1]), int(span[2]) + 1)
        values: Iterable[str] = (str(i).zfill(len(span[1])) for i in numbers)
    else:
        values = match[1].split(",")
    for value in values:
        yield from expand_braces(pattern[: match.start()] + value + pattern[match.end() :])
