"""A folder of image files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch import Tensor

from polymask import UserError
from polymask.portions import Skipped, numbered, whole
from polymask_vision.datasets.base import ImageDataset, prepare
from polymask_vision.datasets.decode import ENDINGS, fault
from polymask_vision.datasets.portions import Names, class_names, divide
from polymask_vision.datasets.prepare import Augment

_TEST = ("test", "val", "valid", "validation")


class Folder(ImageDataset):
    """Image files at any depth of a folder: jpg, png, webp, bmp, tiff; 8 or 16 bits, with alpha or a palette.

    Where every image lies in a subfolder, the subfolders right below the folder are the classes; where
    one lies in the folder itself, there are no labels. A subfolder ``train`` holds the training images,
    beside it ``test``, ``val``, ``valid`` or ``validation`` those to test on; without, a fixed share of
    each class is held out. Links are followed, hidden files and folders ignored.

    Files that are empty, truncated or no pictures are skipped and listed in ``skipped``. Damage that
    shows only on decoding does not stop training: another picture of the class stands in.

    Args:
        source: the folder (``folder:PATH``).
        size: height and width to scale and crop to. By default that of the images, if it is the same
            for all and at most 224; else 224.
        channels: 1 (grey) or 3; by default 1 if all images are grey.
        test: share of each class to hold out where there is no folder for it.
        augment: random augmentation in training.
        crop_scale: areas of ``crop-flip``, as shares of the picture.
        mean: per channel, of values in [0, 1]; by default ImageNet's.
        std: standard deviation per channel; by default ImageNet's.
        limit: at most so many images of each split.
    """

    def __init__(
        self,
        *,
        source: str,
        size: int | Sequence[int] | None = None,
        channels: int | None = None,
        test: float = 0.1,
        augment: Augment = "none",
        crop_scale: Sequence[float] = (0.2, 1.0),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        limit: int | None = None,
    ) -> None:
        root = Path(source).expanduser()
        if not root.is_dir():
            raise UserError(f"folder:{source}: there is no folder {root.absolute()}")
        skipped: Skipped = []
        found = [Files(root, under, skipped) for under in _splits(root)]
        if not len(found[0]):
            raise UserError(_nothing(root, skipped))
        classes = class_names(*(files.classes() or () for files in found)) or None
        portions = [whole(files, _labels(files, classes)) for files in found]
        if len(portions) == 1:
            portions = list(divide(found[0], portions[0].labels, test))
        super().__init__(
            portions[0],
            portions[1],
            prepare(
                portions[0],
                size=size,
                channels=channels,
                mean=mean,
                std=std,
                augment=augment,
                crop_scale=crop_scale,
            ),
            classes=classes,
            skipped=skipped,
            limit=limit,
        )


class Files:
    """The image files under a folder, by name.

    Args:
        root: the folder that names are relative to.
        under: what part of it to look in, or ``""``.
        skipped: takes what is left out, ``(name, reason)``.
    """

    def __init__(self, root: Path, under: str, skipped: Skipped) -> None:
        self.root, self.under = root, under
        candidates = []
        for name in sorted(_walk(root, under, skipped)):
            if name.lower().endswith(ENDINGS):
                candidates.append(name)
            else:
                skipped.append((name, "not a picture by its ending"))
        faults = list(zip(candidates, _faults(root, candidates), strict=True))
        skipped.extend((name, why) for name, why in faults if why)
        self.names = Names([name for name, why in faults if not why])

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> bytes:
        return Path(self.root, self.names[index]).read_bytes()

    def name(self, index: int) -> str:
        return self.names[index]

    def classes(self) -> list[str] | None:
        """The class of each file: the folder it lies in, right under the top; None if one lies in none."""
        depth = len(Path(self.under).parts)
        parts = [self.names[i].split("/") for i in range(len(self))]
        if any(len(part) < depth + 2 for part in parts):
            return None
        return [part[depth] for part in parts]


def _labels(files: Files, classes: Sequence[str] | None) -> Tensor | None:
    mine = files.classes()
    return None if mine is None or classes is None else numbered(mine, classes)


def _splits(root: Path) -> list[str]:
    """Where to look for training images and, if that is another place, for those to test on."""
    folders = {p.name.lower(): p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")}
    if "train" not in folders:
        return [""]
    tests = [folders[name] for name in _TEST if name in folders]
    # a test folder without class folders, as ImageNet's, is no use where another has them
    tests.sort(key=lambda name: not any(p.is_dir() for p in (root / name).iterdir()))
    return [folders["train"], *tests[:1]]


def _walk(root: Path, under: str, skipped: Skipped) -> Iterator[str]:
    """Files under a folder, relative to ``root`` with slashes; hidden ones and endless links left out."""

    def failed(error: OSError) -> None:
        skipped.append((os.path.relpath(error.filename, root), error.strerror or str(error)))

    for folder, subfolders, files in os.walk(root / under, followlinks=True, onerror=failed):
        subfolders[:] = [s for s in subfolders if not (s.startswith(".") or _loops(folder, s))]
        place = Path(folder).relative_to(root)
        yield from ((place / name).as_posix() for name in files if not name.startswith("."))


def _loops(folder: str, name: str) -> bool:
    path = os.path.join(folder, name)
    return os.path.islink(path) and Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(path))


def _faults(root: Path, names: Sequence[str]) -> Iterator[str | None]:
    """What is wrong with each file, looked at by several threads: disks answer many at once."""

    def look(some: Sequence[str]) -> list[str | None]:
        return [fault(root / name) for name in some]

    with ThreadPoolExecutor() as pool:
        for found in pool.map(look, [names[i : i + 256] for i in range(0, len(names), 256)]):
            yield from found


def _nothing(root: Path, skipped: Skipped) -> str:
    message = f"no images ({', '.join(ENDINGS)}) in {root.absolute()}"
    if skipped:
        message += f"; skipped {len(skipped)} files, first {skipped[0][0]}: {skipped[0][1]}"
    return message
