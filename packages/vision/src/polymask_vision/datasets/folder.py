"""A folder of image files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from polymask.data import BadSample, Splits
from polymask.data.folders import read_folder
from polymask.data.splits import Names
from polymask.types import Share
from polymask_vision.datasets.caption_files import read_captions
from polymask_vision.datasets.decode import ENDINGS, fault


def folder(*, source: str, test: Share = 0.1) -> Splits[Files]:
    """Image files at any depth of a folder: jpg, png, webp, bmp, tiff; 8 or 16 bits, with alpha or a palette.

    Where every image lies in a subfolder, the subfolders right below the folder are the classes; where
    one lies in the folder itself, there are no labels. A subfolder ``train`` holds the training images,
    beside it ``test``, ``val``, ``valid`` or ``validation`` those to test on; without, a fixed share of
    each class is held out. Links are followed, hidden files and folders ignored.

    Captions are read from ``captions.csv`` in the folder (columns ``file`` and ``caption``, files as they lie
    below it), from ``captions.jsonl`` (an object of both to a line), or from a ``.txt`` beside each image.

    Files that are empty, truncated or no images are skipped and listed in ``skipped``. Damage that
    shows only on decoding does not stop training: another image of the class stands in.

    Args:
        source: the folder (``folder:PATH``).
        test: share of each class to hold out where there is no folder for it.
    """
    found = read_folder(source, ENDINGS, "images", _look, again=lambda nothing: None)
    captions, skipped = read_captions(found.root, found.names, found.skipped)
    files = Files(found.root, found.names)
    if captions is not None:
        files = CaptionedFiles(found.root, found.names, ["".join(own[:1]) for own in captions])
    return dataclasses.replace(found, skipped=skipped).splits(files, test)


def example_source(folder: Path) -> str:
    """Grey and coloured squares in two class folders."""
    for i in range(8):
        path = folder / ("dark", "light")[i % 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (20 * i, 255 * (i % 2), 99)).save(path)
    return str(folder)


class Files:
    """Image files by number.

    Args:
        root: the folder that names are relative to.
        names: of the files.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root, self.names = root, Names(names)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> bytes:
        return Path(self.root, self.names[index]).read_bytes()

    def name(self, index: int) -> str:
        return self.names[index]


class CaptionedFiles(Files):
    """Image files and a few words about each, by number.

    Args:
        root: the folder that names are relative to.
        names: of the files.
        captions: of each, empty where there is none.
    """

    def __init__(self, root: Path, names: Sequence[str], captions: Sequence[str]) -> None:
        super().__init__(root, names)
        self.captions = Names(captions)

    def caption(self, index: int) -> str:
        return self.captions[index]


def _look(path: Path) -> None:
    reason = fault(path)
    if reason is not None:
        raise BadSample(reason)
