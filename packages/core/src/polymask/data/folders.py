"""Folders of files as people have them: which files, of which split and class, and what is left out.

The same for every modality; a package says which suffixes it reads and how it looks at one file.
"""

from __future__ import annotations

import os
import stat
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from polymask.data.findings import Findings, Identity
from polymask.data.places import UNLABELED, is_folder, places
from polymask.data.reading import BadSample, exhausted
from polymask.data.splits import S, Skipped, Splits, class_names, class_numbers, divide, whole
from polymask.errors import UserError

_KINDS = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Folder(Generic[T]):
    """The files of a folder that can be used.

    Args:
        root: the folder.
        names: of the files, below it, with slashes.
        looks: what looking at each file gave.
        labels: int64 ``[n]``, -1 where unknown; None where there are no classes.
        classes: names of the classes, or None.
        test: bool ``[n]``, which files a folder holds out; None where none does.
        skipped: what was left out, with the reason.
    """

    root: Path
    names: list[str]
    looks: list[T]
    labels: Tensor | None
    classes: list[str] | None
    test: Tensor | None
    skipped: Skipped

    def splits(self, source: S, share: float) -> Splits[S]:
        """Train and test, as folders hold them out, else by a fixed rule.

        Args:
            source: all of the files.
            share: of each class to hold out where no folder does.
        """
        files = whole(source, self.labels)
        train, test = (
            divide(files, share) if self.test is None else (files.at(~self.test), files.at(self.test))
        )
        return Splits(train=train, test=test, classes=self.classes, skipped=self.skipped)


def read_folder(
    source: str,
    suffixes: Iterable[str],
    what: str,
    look: Callable[[Path], T],
    *,
    again: Callable[[Any], T] | None = None,
) -> Folder[T]:
    """The files at any depth of a folder.

    A subfolder ``train`` or ``training`` holds the training files, and ``test``, ``val`` or another of
    :data:`~polymask.data.places.HELD_OUT` beside it the held-out ones, a year behind the name or not; of
    several, the first that has class folders, if any has. Where there is nothing but such folders and no
    ``train``, the first counts as the one to train on. Within each, where every file lies in a subfolder, the
    subfolders right below are the classes; elsewhere labels are unknown. Splits may also lie within classes,
    ``cat/train`` and ``cat/test``. ``unlabeled`` is no class. Links are followed, hidden files ignored.

    Args:
        source: the folder.
        suffixes: of the files to take, lower case: ``(".png", ...)``.
        what: what the files are, in messages: ``"images"``.
        look: called with each file, from several threads; what it returns is kept. Raises
            :class:`BadSample` where a file cannot be used. Empty files are left out before.
        again: what ``look`` returned, made of it as JSON; given where that depends on nothing but the content
            of the file, so that files of large folders which stay as they are are looked at once.

    Raises:
        UserError: no such folder, or no such files in it.
    """
    root = Path(source).expanduser()
    if not root.is_dir():
        raise UserError(f"there is no folder {root.absolute()}")
    skipped: Skipped = []
    suffixes = tuple(suffixes)
    names: list[str] = []
    looks: list[T] = []
    sides: list[bool] = []
    labels: list[str | None] = []
    found_places = places(root, suffixes, skipped)
    for side, place, of in found_places:
        candidates, identities, since = list[str](), list[Identity](), time.time_ns()
        files = sorted(_walk(root, place, skipped))
        for name, state in zip(files, _each(root, files, _state(suffixes, what)), strict=True):
            if isinstance(state, BadSample):
                skipped.append((name, str(state)))
            else:
                candidates.append(name)
                identities.append(state)
        key = [str(root.resolve()), place, what, look.__module__, look.__qualname__]
        findings = Findings(key, candidates, identities, since, again)
        new = look_at(root, findings.unknown, look)
        mine = []
        for name, found in findings.complete(new):
            if isinstance(found, BadSample):
                skipped.append((name, str(found)))
            else:
                mine.append(name)
                looks.append(found)
        names += mine
        sides += [side > 0] * len(mine)
        if of is None:
            own = _classes(mine, place)
            _tell_classes(root / place, mine, own, place, what)
            labels += own
        else:
            labels += [of] * len(mine)
    if all(sides):
        below = "" if found_places[0].of else found_places[0].folder
        raise UserError(_nothing(root / below, what, suffixes, sorted(skipped)))
    classes = class_names(labels) or None
    return Folder(
        root=root,
        names=names,
        looks=looks,
        labels=None if classes is None else class_numbers(labels, classes),
        classes=classes,
        test=torch.tensor(sides) if any(place.side for place in found_places) else None,
        skipped=sorted(skipped),
    )


def _walk(root: Path, under: str, skipped: Skipped) -> Iterator[str]:
    """What is no folder under a folder, relative to ``root`` with slashes; hidden ones left out."""

    def enter(place: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
        here = os.path.join(root, place)
        try:
            identity = _identity(here)
            entries = list(os.scandir(here))
        except OSError as error:
            skipped.append((place, error.strerror or str(error)))
            return
        if identity in above:
            skipped.append((place, "a link to a folder around it"))
            return
        before = f"{place}/" if place else ""
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if is_folder(entry):
                yield from enter(before + entry.name, above | {identity})
            else:
                yield before + entry.name

    around = (root / under).resolve().parents
    yield from enter(under, frozenset(_identity(folder) for folder in around))


def _identity(path: str | Path) -> tuple[int, int]:
    about = os.stat(path)
    return about.st_dev, about.st_ino


def _state(suffixes: Sequence[str], what: str) -> Callable[[str], Identity]:
    """A function of a path that sees whether a file is one to look at, and how to know it again."""

    def state(path: str) -> Identity:
        if os.path.splitext(path)[1].lower() not in suffixes:
            raise BadSample(f"its suffix is not among those of {what}")
        about = os.stat(path)
        if not stat.S_ISREG(about.st_mode):
            # opening a pipe would wait for ever
            raise BadSample(f"{_KINDS.get(stat.S_IFMT(about.st_mode), 'a device')}, not a file")
        if not about.st_size:
            raise BadSample("empty file")
        return about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino

    return state


def look_at(root: Path, names: Sequence[str], look: Callable[[Path], T]) -> Iterator[T | BadSample]:
    """What looking at each file gives, or why it cannot be used; threads, since disks answer many at once."""
    return _each(root, names, lambda path: look(Path(path)))


def _each(root: Path, names: Sequence[str], look: Callable[[str], T]) -> Iterator[T | BadSample]:
    before = os.path.join(root, "")

    def one(name: str) -> T | BadSample:
        try:
            return look(before + name)
        except BadSample as error:
            return error
        except OSError as error:
            if exhausted(error):
                raise
            return BadSample(error.strerror or str(error))

    def some(chunk: Sequence[str]) -> list[T | BadSample]:
        return [one(name) for name in chunk]

    with ThreadPoolExecutor() as pool:
        for found in pool.map(some, [names[i : i + 256] for i in range(0, len(names), 256)]):
            yield from found


def _classes(names: Sequence[str], place: str) -> list[str | None]:
    """The class of each file: the folder right below a place that it lies in; None if one lies in none."""
    start = len(place) + 1 if place else 0
    folders = [name[start:].rpartition("/")[0].partition("/")[0] for name in names]
    if not all(folders):
        return [None] * len(names)
    return [None if folder.lower() in UNLABELED else folder for folder in folders]


def _tell_classes(
    root: Path, names: Sequence[str], labels: Sequence[str | None], place: str, what: str
) -> None:
    """Warn of class folders of which nothing is left, and of files beside them, which end all classes."""
    classes = {name for name in labels if name is not None}
    start = len(place) + 1 if place else 0
    loose = [name for name in names if "/" not in name[start:]]
    if 0 < len(loose) < len(names) / 2:
        warnings.warn(
            f"{len(loose)} of {len(names)} {what} lie beside the folders of the others (the first: "
            f"{loose[0]}), so these are no classes and there are no labels: move them into folders, or away",
            stacklevel=3,
        )
    if not classes:
        return
    folders = {path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")}
    empty = sorted(name for name in folders - classes if name.lower() not in UNLABELED)
    if empty:
        warnings.warn(
            f"{len(empty)} of {len(empty) + len(classes)} class folders in {root} hold no {what} that can be "
            f"used, and are no classes: {', '.join(empty[:5])}{', ...' * (len(empty) > 5)}",
            stacklevel=3,
        )


def _nothing(root: Path, what: str, suffixes: Sequence[str], skipped: Skipped) -> str:
    message = f"no {what} ({', '.join(suffixes)}) in {root.absolute()}"
    if skipped:
        message += f"; skipped {len(skipped)} files, first {skipped[0][0]}: {skipped[0][1]}"
    return message
