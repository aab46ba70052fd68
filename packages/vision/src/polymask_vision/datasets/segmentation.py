"""Folders of images and masks of the same names."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from polymask import UserError
from polymask.data import BadSample, Splits, evenly, reading
from polymask.data.folders import read_folder
from polymask.types import Share
from polymask_vision.datasets.decode import ENDINGS, fault, header, planes, reason
from polymask_vision.datasets.folder import Files
from polymask_vision.datasets.maps import MaskReader

LOOK = 64
"""How many masks are looked at, evenly spaced."""

MASK_ENDINGS = (".png", *(suffix for suffix in ENDINGS if suffix != ".png"), ".pfm", ".npy")
"""Files taken for masks, the first of a name that there is."""


def segmentation(
    *,
    source: str,
    images: str = "images",
    masks: str = "masks",
    values: bool = False,
    labels: Mapping[str, int | Sequence[int]] | None = None,
    ignore: float | Sequence[int] | None = None,
    test: Share = 0.1,
) -> Splits[MaskedFiles]:
    """Images in one folder, and in another a mask of each: ``images/a/b.jpg`` and ``masks/a/b.png``.

    A mask says of each pixel what it is: a number (grey, or an index into a palette, as VOC and ADE20K have
    them), or a colour. Samples hold it as ``label_map``, classes by number, or as ``value_map`` (depth,
    height). Folders below ``images`` are splits and classes as in ``folder``.

    Images without a mask, of another size than their mask, and damaged files are left out and listed in
    ``skipped``.

    Args:
        source: the folder with both (``segmentation:PATH``).
        images: the folder of images in it.
        masks: that of masks; files of the same name with any suffix, ``.pfm`` or ``.npy``.
        values: whether masks hold values, and no classes.
        labels: number or colour of each class, ``{sky: [0,0,128], road: [128,64,128]}``; by default the
            numbers are the classes.
        ignore: number or colour of pixels that are not known; by default 255 in masks of classes.
        test: share of each class of images to hold out where there is no folder for it.
    """
    root = Path(source).expanduser()
    for name in (images, masks):
        if not (root / name).is_dir():
            there = sorted(path.name for path in root.glob("*/")) if root.is_dir() else []
            raise UserError(
                f"segmentation:{source}: there is no folder {(root / name).absolute()}; "
                + (f"there are {', '.join(there)}: " if there else "")
                + "say where images and masks are, --data.images and --data.masks"
            )
    reader = MaskReader(labels, values, ignore)
    found = read_folder(
        str(root / images),
        ENDINGS,
        "images with a mask",
        lambda path: mask_of(path, root / images, root / masks),
    )
    if not values and (lossy := [one for one in found.looks if one.lower().endswith((".jpg", ".jpeg"))]):
        warnings.warn(
            f"{len(lossy)} masks are JPEG, as {lossy[0]}, which blurs borders into numbers of other classes: "
            "store them as PNG",
            stacklevel=2,
        )
    files = MaskedFiles(found.root, found.names, root / masks, found.looks, reader)
    reader.check(
        (found.looks[i], (root / masks / found.looks[i]).read_bytes()) for i in evenly(len(files), LOOK)
    )
    return found.splits(files, test)


def example_source(folder: Path) -> str:
    """Grey images of a bright square, whose masks are where it is."""
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for i in range(8):
        square = np.zeros((16, 16), dtype=np.uint8)
        square[i : i + 6, 4:10] = 1
        Image.fromarray(square * 200 + 20).save(folder / "images" / f"{i}.png")
        Image.fromarray(square).save(folder / "masks" / f"{i}.png")
    return str(folder)


class MaskedFiles(Files):
    """Image files and their masks by number.

    Args:
        root: the folder that names are relative to.
        names: of the images.
        mask_root: the folder that names of masks are relative to.
        masks: names of the masks.
        reader: turns a mask into a map.
    """

    def __init__(
        self, root: Path, names: Sequence[str], mask_root: Path, masks: Sequence[str], reader: MaskReader
    ) -> None:
        super().__init__(root, names)
        self.masks, self.reader = Files(mask_root, masks), reader
        self.map_classes = reader.classes

    def maps(self, index: int) -> dict[str, Tensor]:
        return self.reader(self.masks.read(index))


def mask_of(path: Path, images: Path, masks: Path, what: str = "mask") -> str:
    """The name of the mask of an image, of the same size, below the folder of masks.

    Args:
        path: of the image.
        images: the folder of images.
        masks: that of masks.
        what: they are called in messages.

    Raises:
        BadSample: the image is damaged, or has no such mask.
    """
    if broken := fault(path):
        raise BadSample(broken)
    stem = (masks / path.relative_to(images)).with_suffix("")
    for suffix in MASK_ENDINGS:
        mask = stem.with_name(stem.name + suffix)
        if mask.is_file():
            break
    else:
        raise BadSample(f"there is no {what} {stem.relative_to(masks.parent)}.png, or of another suffix")
    if broken := fault(mask):
        raise BadSample(f"its {what}: {broken}")
    size, mask_size = size_of(path), stored_size(mask)
    if size != mask_size:
        raise BadSample(f"it is {size[0]} x {size[1]} pixels, and its {what} {mask_size[0]} x {mask_size[1]}")
    return mask.relative_to(masks).as_posix()


def size_of(path: Path) -> tuple[int, int]:
    """Height and width of an image, upright, read from the head of a file where it can be.

    Raises:
        BadSample: it has none.
    """
    with reading(reason):
        try:
            with Image.open(path) as image:
                return header(image).size
        except UnidentifiedImageError:  # a TIFF of many bands
            return header(path.read_bytes()).size


def stored_size(path: Path) -> tuple[int, int]:
    """The same of a file of values or classes, as it is stored; values may be NaN.

    Raises:
        BadSample: it has none.
    """
    with reading(reason):
        if path.suffix == ".npy":
            shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
            height, width = shape[1:] if len(shape) == 3 and shape[0] < shape[2] else shape[:2]
            return height, width
        try:
            with Image.open(path) as image:
                return image.height, image.width
        except UnidentifiedImageError:  # a TIFF of many bands
            _, height, width = planes(path.read_bytes()).shape
            return height, width
