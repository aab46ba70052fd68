"""Which folders below one hold the files to train on and those to hold out, and which hold a class."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from polymask.data.splits import Skipped

TRAIN = ("train", "training")
"""Folders of files to train on."""

HELD_OUT = ("test", "testing", "val", "valid", "validation", "dev", "eval", "evaluation")
"""Folders of held-out files, the first that there is."""

UNLABELED = ("unlabeled", "unlabelled")
"""Folders beside class folders that are no class."""


class Place(NamedTuple):
    """A folder of files.

    Args:
        side: 0 of those to train on, 1 of those to hold out.
        folder: below the one that is read, with slashes; empty for that one itself.
        of: the class of all files in it; None where folders in it may be classes.
    """

    side: int
    folder: str
    of: str | None = None


def places(root: Path, suffixes: Sequence[str], skipped: Skipped) -> list[Place]:
    """Where to look for training files and for those to test on, which are divided later where none says.

    Args:
        root: the folder that is read.
        suffixes: of the files to take, lower case.
        skipped: takes the folders that are left out, with the reason.
    """
    there = _folders(root)
    found = [Place(*each) for each in enumerate(_splits(root, there, suffixes, skipped))]
    classes = [path for path in there if path.name.lower() not in UNLABELED]
    # splits within classes; this does not read a folder of a million files
    if not found and all(any((path / name).is_dir() for name in TRAIN) for path in classes):
        for path in classes:
            below: Skipped = []
            for side, name in enumerate(_splits(path, _folders(path), suffixes, below)):
                found.append(Place(side, f"{path.name}/{name}", path.name))
            skipped.extend((f"{path.name}/{name}", why) for name, why in below)
    return found or [Place(0, "")]


def _splits(root: Path, there: Sequence[Path], suffixes: Sequence[str], skipped: Skipped) -> list[str]:
    """Of the folders there, that of training files and, if any, of held-out ones; nothing without splits."""
    # COCO's are called train2017 and val2017; a plain name comes first
    plain = {re.sub(r"\d{4}$", "", path.name.lower()): path for path in reversed(there)}
    train = [plain[name] for name in TRAIN if name in plain][:1]
    held = [plain[name] for name in HELD_OUT if name in plain]
    if not train and not held:
        return []
    others = [path for path in there if path not in (*train, *held) and _holds(path, suffixes)]
    if not train and (others or _holds(root, suffixes, deep=False)):
        return []
    classes = [path for path in others if path.name.lower() not in UNLABELED]
    if train and classes and not held and not _has_classes(train[0]):
        return []  # images of trains, beside those of buses
    found = [*train, *sorted(held, key=lambda path: not _has_classes(path))]
    skipped.extend((f"{path.name}/", f"{found[1].name}/ is held out") for path in found[2:])
    skipped.extend((f"{path.name}/", f"it lies beside {found[0].name}/") for path in others)
    return [path.name for path in found[:2]]


def _folders(root: Path) -> list[Path]:
    with os.scandir(root) as entries:
        return sorted(Path(e.path) for e in entries if not e.name.startswith(".") and is_folder(e))


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one, without a look at a million files."""
    # asked of a link that leads to itself, an entry raises
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _has_classes(folder: Path) -> bool:
    return any(path.name.lower() not in UNLABELED for path in _folders(folder))


def _holds(folder: Path, suffixes: Sequence[str], deep: bool = True) -> bool:
    """Whether there are files to take in a folder; with ``deep`` also below."""
    for _, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if deep and not name.startswith(".")]
        if any(os.path.splitext(name)[1].lower() in suffixes for name in files if not name.startswith(".")):
            return True
    return False
