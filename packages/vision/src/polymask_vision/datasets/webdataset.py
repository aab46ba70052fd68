"""Shards in WebDataset's format: tar files in which the files of a sample share their name."""

from __future__ import annotations

import glob
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from polymask import UserError
from polymask.data import BadSample, Skipped, Splits, class_names, class_numbers, divide, whole
from polymask.data.splits import Names
from polymask.types import Share
from polymask_vision.datasets.decode import ENDINGS

_WHOLE = re.compile(r"-?[0-9]+\.0*")


def webdataset(
    *,
    source: str,
    test_source: str | None = None,
    image: str | None = None,
    label: str = "cls",
    test: Share = 0.1,
) -> Splits[Shards]:
    """Local tar files in WebDataset's format: ``a.jpg`` and ``a.cls`` are image and class of a sample.

    The files of a sample share their name up to its first dot, and may lie anywhere in their tar file. A
    sample of several images is left out unless ``image`` says which is meant.

    The members are indexed once, on opening, and read by their place in the file: random access, so that
    training shuffles all samples alike and resumes exactly, which a stream of shards cannot.

    Args:
        source: a tar file, a folder of them, or a pattern: ``wds:train-{000..099}.tar``, ``wds:train-*.tar``.
        test_source: the same for shards to test on; by default a fixed share of each class is held out.
        image: ending of the image's file; by default any known one.
        label: ending of the file that holds the class, or ``json:FIELD``; ``none`` to use none.
        test: share of each class to hold out where there are no shards for it.
    """
    skipped: Skipped = []
    shards = [Shards(pattern, image, label, skipped) for pattern in (source, test_source) if pattern]
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

    def add(self, key: str, image: tarfile.TarInfo, label: str | None) -> None:
        self.keys.append(key)
        self.places.append((image.offset_data, image.size))
        self.classes.append(label)


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
        # reading a pipe or a device would not end
        matches = [path for path in sorted(glob.glob(name)) if os.path.isfile(path)]
        matches = [name] if os.path.isfile(name) else matches
        if not matches:
            raise UserError(f"wds:{pattern}: there is no file {os.path.abspath(name)}")
        found += matches
    return found


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


def _index(path: str, image: str | None, label: str) -> _Index:
    index = _Index()
    file, _, entry = label.partition(":")
    files = dict[str, tarfile.TarInfo]()
    try:
        with tarfile.open(path, "r:") as tar:
            again = dict[str, None]()
            try:
                for member in tar:
                    _require_whole(member, os.path.getsize(path))
                    if member.isfile() and member.name in files:
                        again[member.name] = None
                    files[member.name] = member  # the last of a name, which unpacking would leave
                _require_end(path, tar.offset)
            except (tarfile.TarError, OSError) as error:
                before = len(_samples(files, []))
                index.skipped.append(("", f"{error}; what precedes the damage, {before} samples, is used"))
            if again:
                why = f"names that stand in it more than once: {len(again)}, first {next(iter(again))}"
                index.skipped.append(("", f"{why}; the last file of each is used"))
            samples = _samples(files, index.skipped)
            for key, members in samples.items():
                try:
                    found = _image(members, image)
                    if found is not None:
                        name = next((m for ending, m in members if ending == file.lower()), None)
                        index.add(key, found, _class(tar, name, entry))
                except (BadSample, ValueError, OSError) as error:
                    index.skipped.append((key, str(error)))
    except (tarfile.TarError, OSError) as error:
        index.skipped.append(("", _reason(path, error)))
    return index


def _require_whole(member: tarfile.TarInfo, size: int) -> None:
    if member.isfile() and member.offset_data + member.size > size:
        raise tarfile.ReadError(f"the file ends within {member.name}")


def _require_end(path: str, end: int) -> None:
    """See that a shard ends where its members do; tarfile takes any end for that."""
    with open(path, "rb") as file:
        file.seek(end)
        mark, rest = file.read(tarfile.BLOCKSIZE), file.read(tarfile.RECORDSIZE)
    if len(mark) < tarfile.BLOCKSIZE or any(mark):
        raise tarfile.ReadError(f"no end mark at byte {end:,}, so it is cut off or damaged there")
    if any(rest):
        raise tarfile.ReadError(f"more follows its end mark at byte {end:,}, as where tar files were joined")


def _samples(
    members: Mapping[str, tarfile.TarInfo], skipped: Skipped
) -> dict[str, list[tuple[str, tarfile.TarInfo]]]:
    """The files of each sample, under what follows the first dot of their names; links are what they name."""
    samples = dict[str, list[tuple[str, tarfile.TarInfo]]]()
    for path, member in members.items():
        folder, _, name = path.rpartition("/")
        base, _, ending = name.partition(".")
        file: tarfile.TarInfo | None = member
        if member.islnk() or member.issym():
            there = member.linkname if member.islnk() else os.path.join(folder, member.linkname)
            file = members.get(os.path.normpath(there))
            if file is None:
                skipped.append((path, f"a link to {member.linkname}, which is not in this tar file"))
        if base and file is not None and file.isfile():
            samples.setdefault(f"{folder}/{base}" if folder else base, []).append((ending.lower(), file))
    return samples


def _image(members: list[tuple[str, tarfile.TarInfo]], image: str | None) -> tarfile.TarInfo | None:
    """The image of a sample, or None.

    Raises:
        BadSample: there are several, or it is empty.
    """
    wanted = (f".{image.lower()}",) if image else ENDINGS
    found = [(ending, m) for ending, m in members if f".{ending}".endswith(wanted)]
    exact = [(ending, m) for ending, m in found if image and ending == image.lower()]
    found = exact or found
    if len(found) > 1:
        names = ", ".join(m.name for _, m in found[:3])
        raise BadSample(
            f"a sample of {len(found)} images ({names}), as names are one up to their first dot: choose one "
            "by its ending (--data.image), or rename the files"
        )
    if found and not found[0][1].size:
        raise BadSample("empty file")
    return found[0][1] if found else None


def _reason(path: str, error: Exception) -> str:
    with open(path, "rb") as file:
        head = file.read(6)
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        return "a compressed tar file, which cannot be read at random: unpack it"
    return str(error)


def _class(tar: tarfile.TarFile, member: tarfile.TarInfo | None, entry: str) -> str | None:
    file = None if member is None else tar.extractfile(member)
    if member is None or file is None:
        return None
    text = file.read().decode("utf-8").strip()
    if entry:
        fields = json.loads(text)
        value = fields.get(entry) if isinstance(fields, dict) else None
        if value is None:
            return None
        text = str(value).strip()
    if not text:
        raise BadSample(f"its label is empty: put a class there, or take away {entry or member.name}")
    # what wrote one class as a number may have written it as a fraction elsewhere
    return text.partition(".")[0] if _WHOLE.fullmatch(text) else text
