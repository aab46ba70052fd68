"""What the tar files of a data set hold, found once and kept."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from polymask.data import BadSample, Skipped, findings
from polymask_vision.datasets import remote
from polymask_vision.datasets.decode import ENDINGS

_WHOLE = re.compile(r"-?[0-9]+\.0*")

_TEXT = 1 << 20
"""Bytes of a label at most that is read in passing."""

Members = list[tuple[str, tarfile.TarInfo]]
"""Files of a sample, by ending."""

Told = tuple[str, bytes]
"""Name and content of a file."""


@dataclass
class Index:
    """What one tar file holds: per sample its name, where its image lies, its class and caption."""

    keys: list[str] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    classes: list[str | None] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    skipped: Skipped = field(default_factory=list)
    sure: bool = True
    """Whether it follows from the content alone, and not from what failed in reading it."""

    def add(self, key: str, image: tarfile.TarInfo, label: str | None, caption: str) -> None:
        self.keys.append(key)
        self.places.append((image.offset_data, image.size))
        self.classes.append(label)
        self.captions.append(caption)


def indexes(
    shards: Sequence[tuple[str, remote.About]],
    image: str | None,
    label: str,
    caption: str,
    key: Sequence[str],
) -> list[Index]:
    """What each of some tar files holds; shards that are the same as at another time are not read again.

    Args:
        shards: path and state of each.
        image: ending of the image's file, or None for any known one.
        label: ending of the file that holds the class, or ``json:FIELD``.
        caption: the same of the caption.
        key: what these shards are kept under.
    """
    place = findings.kept_path("shards", [*key, image or "", label, caption])
    states = [(remote.shown(path), about.size, about.identity) for path, about in shards]
    known = dict[Any, Index]()
    with contextlib.suppress(Exception):  # whatever was kept and is no such thing is nothing
        known = {
            tuple(state): _known(*rest) for state, *rest in findings.unpacked(findings.load(place)["shards"])
        }
    new = [number for number, state in enumerate(states) if state[2] is None or state not in known]
    with ThreadPoolExecutor() as pool:
        read = pool.map(lambda number: _index(*shards[number], image, label, caption), new)
        fresh = dict(zip(new, read, strict=True))
    found = [fresh[number] if number in fresh else known[state] for number, state in enumerate(states)]
    keep = [(s, index) for s, index in zip(states, found, strict=True) if s[2] is not None and index.sure]
    many = sum(len(index.keys) for index in found) >= findings.FEW or any(remote.is_far(p) for p, _ in shards)
    if many and (len(keep) != len(known) or any(state not in known for state, _ in keep)):
        rows = [(state, i.keys, i.places, i.classes, i.captions, i.skipped) for state, i in keep]
        findings.save(place, shards=findings.packed(rows))
    return found


def _known(
    keys: list[str], places: list[Any], classes: list[str | None], captions: list[str], skipped: list[Any]
) -> Index:
    """What was kept of a shard.

    Raises:
        ValueError: it is no such thing.
    """
    if not len(keys) == len(places) == len(classes) == len(captions):
        raise ValueError("not as many names as places")
    pairs = [(start, size) for start, size in places]
    return Index(keys, pairs, classes, captions, [(a, b) for a, b in skipped])


def _index(path: str, about: remote.About, image: str | None, label: str, caption: str) -> Index:
    index, size = Index(), about.size
    wanted = {told.partition(":")[0].lower() for told in (label, caption)}
    files = dict[str, tarfile.TarInfo]()
    texts = dict[int, bytes]()
    try:
        with remote.opened(path, size) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            again = dict[str, None]()
            try:
                for member in tar:
                    _require_whole(member, size)
                    if member.isfile() and member.name in files:
                        again[member.name] = None
                    files[member.name] = member  # the last of a name, which unpacking would leave
                    # in passing: to come back would read a far file twice
                    if _ending(member.name) in wanted and 0 < member.size < _TEXT:
                        texts[member.offset_data] = _content(tar, member)
                _require_end(file, tar.offset)
            except (tarfile.TarError, OSError) as error:
                index.sure = index.sure and not isinstance(error, OSError)
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
                        told = partial(_told, tar, texts, members)
                        index.add(key, found, _class(told, label), _caption(told, caption))
                except (BadSample, ValueError, OSError) as error:
                    index.sure = index.sure and not isinstance(error, OSError)
                    index.skipped.append((key, str(error)))
    except (tarfile.TarError, OSError) as error:
        index.sure = index.sure and not isinstance(error, OSError)
        index.skipped.append(("", _reason(path, size, error)))
    return index


def _require_whole(member: tarfile.TarInfo, size: int) -> None:
    if member.isfile() and member.offset_data + member.size > size:
        raise tarfile.ReadError(f"the file ends within {member.name}")


def _require_end(file: io.BufferedIOBase, end: int) -> None:
    """See that a shard ends where its members do; tarfile takes any end for that."""
    file.seek(end)
    mark, rest = file.read(tarfile.BLOCKSIZE), file.read(tarfile.RECORDSIZE)
    if len(mark) < tarfile.BLOCKSIZE or any(mark):
        raise tarfile.ReadError(f"no end mark at byte {end:,}, so it is cut off or damaged there")
    if any(rest):
        raise tarfile.ReadError(f"more follows its end mark at byte {end:,}, as where tar files were joined")


def _samples(members: Mapping[str, tarfile.TarInfo], skipped: Skipped) -> dict[str, Members]:
    """The files of each sample, under what follows the first dot of their names; links are what they name."""
    samples = dict[str, Members]()
    for path, member in members.items():
        folder, _, name = path.rpartition("/")
        base = name.partition(".")[0]
        file: tarfile.TarInfo | None = member
        if member.islnk() or member.issym():
            there = member.linkname if member.islnk() else os.path.join(folder, member.linkname)
            file = members.get(os.path.normpath(there))
            if file is None:
                skipped.append((path, f"a link to {member.linkname}, which is not in this tar file"))
        if base and file is not None and file.isfile():
            samples.setdefault(f"{folder}/{base}" if folder else base, []).append((_ending(path), file))
    return samples


def _ending(path: str) -> str:
    return path.rpartition("/")[2].partition(".")[2].lower()


def _image(members: Members, image: str | None) -> tarfile.TarInfo | None:
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


def _reason(path: str, size: int, error: Exception) -> str:
    head = b"" if isinstance(error, OSError) else remote.read(path, 0, min(size, 6))
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        return "a compressed tar file, which cannot be read at random: unpack it"
    return str(error)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return b"" if file is None else file.read()


def _told(tar: tarfile.TarFile, texts: Mapping[int, bytes], members: Members, ending: str) -> Told | None:
    """A file of a sample by its ending, read before or now; None where there is none."""
    name = next((m for one, m in members if one == ending.lower()), None)
    if name is None:
        return None
    content = texts.get(name.offset_data)
    return name.name, _content(tar, name) if content is None else content


def _field(told: Callable[[str], Told | None], where: str) -> tuple[str, str] | None:
    """What to call a label or a caption, and its text; None where there is none."""
    ending, _, entry = where.partition(":")
    if (found := told(ending)) is None:
        return None
    name, text = found[0], found[1].decode("utf-8").strip()
    if not entry:
        return name, text
    fields = json.loads(text)
    value = fields.get(entry) if isinstance(fields, dict) else None
    return None if value is None else (entry, str(value).strip())


def _class(told: Callable[[str], Told | None], where: str) -> str | None:
    if (found := _field(told, where)) is None:
        return None
    name, text = found
    if not text:
        raise BadSample(f"its label is empty: put a class there, or take away {name}")
    # what wrote one class as a number may have written it as a fraction elsewhere
    return text.partition(".")[0] if _WHOLE.fullmatch(text) else text


def _caption(told: Callable[[str], Told | None], where: str) -> str:
    found = _field(told, where)
    return "" if found is None else " ".join(found[1].split())
