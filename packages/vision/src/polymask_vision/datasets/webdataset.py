"""Shards in WebDataset's format: tar files in which the files of a sample share their name."""

from __future__ import annotations

import glob
import json
import os
import re
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from polymask import UserError
from polymask.data import Skipped, Splits, class_names, class_numbers, divide, whole
from polymask.data.splits import Names
from polymask.types import Share
from polymask_vision.datasets.decode import ENDINGS


def webdataset(
    *,
    source: str,
    test_source: str | None = None,
    image: str | None = None,
    label: str = "cls",
    test: Share = 0.1,
) -> Splits[Shards]:
    """Local tar files in WebDataset's format: ``a.jpg`` and ``a.cls`` are image and class of a sample.

    The members are indexed once, on opening, and read by their place in the file: random access, so that
    training shuffles all samples alike and resumes exactly, which a stream of shards cannot.

    Args:
        source: a tar file, a folder of them, or a pattern: ``wds:train-{000..099}.tar``, ``wds:train-*.tar``.
        test_source: the same for shards to test on; by default a fixed share of each class is held out.
        image: ending of the image's file; by default any known one.
        label: ending of the file that holds the class, or ``json:FIELD``.
        test: share of each class to hold out where there are no shards for it.
    """
    skipped: Skipped = []
    shards = [Shards(pattern, image, label, skipped) for pattern in (source, test_source) if pattern]
    classes = class_names(*(part.classes for part in shards)) or None
    labels = [None if classes is None else class_numbers(part.classes, classes) for part in shards]
    parts = [whole(part, mine) for part, mine in zip(shards, labels, strict=True)]
    train, held = parts if len(parts) == 2 else divide(parts[0], test)
    return Splits(train=train, test=held, classes=classes, skipped=skipped)


class Shards:
    """The images in some tar files.

    Args:
        pattern: which files.
        image: ending of the image's file, or None for any known one.
        label: ending of the file that holds the class, or ``json:FIELD``.
        skipped: takes what is left out, ``(shard or member, reason)``.

    Raises:
        UserError: no such files, or no images in them.
    """

    def __init__(self, pattern: str, image: str | None, label: str, skipped: Skipped) -> None:
        self.paths = find_shards(pattern)
        with ThreadPoolExecutor() as pool:
            indexes = list(pool.map(lambda path: _index(path, image, label), self.paths))
        for path, index in zip(self.paths, indexes, strict=True):
            skipped.extend((f"{path}/{name}" if name else path, reason) for name, reason in index.skipped)
        self.keys = Names([key for index in indexes for key in index.keys])
        self.classes = [name for index in indexes for name in index.classes]
        places = [place for index in indexes for place in index.places]
        self._place = np.array(places, dtype=np.int64).reshape(-1, 2)
        self._shard = np.repeat(np.arange(len(indexes)), [len(index.keys) for index in indexes])
        if not len(self.keys):
            reason = f"; {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
            endings = image or ", ".join(ENDINGS)
            raise UserError(f"wds:{pattern}: no images ({endings}) in {len(self.paths)} shards{reason}")

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, index: int) -> bytes:
        offset, size = self._place[index]
        with open(self.paths[self._shard[index]], "rb") as file:
            file.seek(offset)
            return file.read(size)

    def name(self, index: int) -> str:
        return f"{Path(self.paths[self._shard[index]]).name}/{self.keys[index]}"


@dataclass
class _Index:
    """What one tar file holds: per sample its name, where its image lies, its class."""

    keys: list[str] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    classes: list[str | None] = field(default_factory=list)
    skipped: Skipped = field(default_factory=list)


def find_shards(pattern: str) -> list[str]:
    """Files that a pattern with braces and wildcards names, sorted as given.

    Raises:
        UserError: a remote address, or files that are not there.
    """
    if "://" in pattern or pattern.startswith("pipe:"):
        raise UserError(
            f"wds:{pattern}: only local files, since samples are read at random; copy the shards first"
        )
    pattern = os.path.expanduser(pattern)
    if os.path.isdir(pattern):
        pattern = os.path.join(glob.escape(pattern), "*.tar")
    found: list[str] = []
    for name in expand_braces(pattern):
        matches = [name] if os.path.isfile(name) else sorted(glob.glob(name))
        if not matches:
            raise UserError(f"wds:{pattern}: there is no file {os.path.abspath(name)}")
        found += matches
    return found


def expand_braces(pattern: str) -> list[str]:
    """``a{00..02}{x,y}`` to ``a00x``, ``a00y``, ``a01x``, ..."""
    match = re.search(r"\{([^{}]*(?:,|\.\.)[^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    span = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if span:
        values = [str(i).zfill(len(span[1])) for i in range(int(span[1]), int(span[2]) + 1)]
    else:
        values = match[1].split(",")
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [name for value in values for name in expand_braces(before + value + after)]


def _index(path: str, image: str | None, label: str) -> _Index:
    index = _Index()
    file, _, entry = label.partition(":")
    try:
        with tarfile.open(path, "r:") as tar:
            for key, members in _samples(tar):
                wanted = (f".{image.lower()}",) if image else ENDINGS
                image_file = next((m for ending, m in members.items() if f".{ending}".endswith(wanted)), None)
                if image_file is None:
                    continue
                if not image_file.size:
                    index.skipped.append((image_file.name, "empty file"))
                    continue
                index.keys.append(key)
                index.places.append((image_file.offset_data, image_file.size))
                index.classes.append(_class(tar, members.get(file.lower()), entry))
    except (tarfile.TarError, OSError, ValueError) as error:
        index.skipped.append(("", f"{error} (compressed tar files cannot be read at random: unpack them)"))
    return index


def _samples(tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Neighbouring members whose names agree up to the first dot, by what follows it."""
    current, members = None, dict[str, tarfile.TarInfo]()
    for member in tar:
        folder, _, name = member.name.rpartition("/")
        base, _, ending = name.partition(".")
        if not member.isfile() or not base:
            continue
        key = f"{folder}/{base}" if folder else base
        if key != current:
            if current is not None:
                yield current, members
            current, members = key, {}
        members[ending.lower()] = member
    if current is not None:
        yield current, members


def _class(tar: tarfile.TarFile, member: tarfile.TarInfo | None, entry: str) -> str | None:
    file = None if member is None else tar.extractfile(member)
    if file is None:
        return None
    text = file.read().decode("utf-8").strip()
    value = json.loads(text).get(entry) if entry else text
    return None if value is None else str(value)
